"""Embeddings: tokenized on any thread, computed on the thread that owns the model."""

from __future__ import annotations

import asyncio
import base64
import queue
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm import tokenizer_utils

from .bert import Encoder
from .config import Config
from .errors import ErrorResponse, too_long
from .tokenize_routes import Tokens
from .tokenizer import PromptTokenizer

# Texts in one pass are padded to the longest one: at most this many tokens with padding.
MAX_BATCH_TOKENS = 4096
Vectors = Future[list[bytes]]


class Embedder:
    """Serves /v1/embeddings, /tokenize and /detokenize of one encoder.

    Args:
        config: the configuration of the server.
    """

    def __init__(self, config: Config) -> None:
        if config.device == "cpu":
            mx.set_default_device(mx.cpu)
        self._context = config.context
        self._encoder = Encoder(config.model, config.widen)
        tokenizer = tokenizer_utils.load(Path(config.model))
        self._prompts = PromptTokenizer(tokenizer, self._encoder.vocabulary)
        self.tokens = Tokens(self._prompts, config.context)
        self._inbox: queue.SimpleQueue[tuple[list[list[int]], Vectors]] = queue.SimpleQueue()
        self.passes = 0

    def run(self) -> None:
        """Process requests forever; the only thread that uses the model."""
        while True:
            texts, done = self._inbox.get()
            if not done.set_running_or_notify_cancel():
                continue
            try:
                done.set_result(self._compute(texts))
            except BaseException as error:
                done.set_exception(error)
                raise

    async def respond(self, body: dict[str, Any]) -> dict[str, Any]:
        """Compute the embeddings of a request, in base64.

        Raises:
            ErrorResponse: the body is invalid, or a text is too long.
        """
        texts = await asyncio.to_thread(self._read, body)
        done: Vectors = Future()
        self._inbox.put((texts, done))
        embeddings = await asyncio.wrap_future(done)
        count = sum(map(len, texts))
        data = [
            {"object": "embedding", "index": index, "embedding": base64.b64encode(row).decode()}
            for index, row in enumerate(embeddings)
        ]
        usage = {"prompt_tokens": count, "total_tokens": count}
        return {"object": "list", "data": data, "usage": usage}

    def metrics(self) -> dict[str, int]:
        """Return the counters."""
        return {"steps": self.passes, "waiting": self._inbox.qsize()}

    def _read(self, body: dict[str, Any]) -> list[list[int]]:
        inputs = body.get("input")
        if not isinstance(inputs, list) or not inputs:
            raise ErrorResponse(
                "'input' must be a list of texts or of lists of tokens.", param="input"
            )
        texts = [self._prompts.completion({"prompt": text}) for text in inputs]
        longest = max(map(len, texts))
        if longest > self._context:
            raise too_long(longest, self._context)
        return texts

    def _compute(self, texts: list[list[int]]) -> list[bytes]:
        embeddings = [b""] * len(texts)
        for batch in _batches(texts):
            self.passes += 1
            vectors = self._encoder([texts[index] for index in batch])
            width = vectors.shape[1] * 4
            data = bytes(memoryview(vectors).cast("B"))
            for position, index in enumerate(batch):
                embeddings[index] = data[position * width : (position + 1) * width]
        return embeddings


def _batches(texts: list[list[int]]) -> Iterator[list[int]]:
    """Group texts of similar length to reduce padding."""
    batch: list[int] = []
    for index in sorted(range(len(texts)), key=lambda index: len(texts[index])):
        if batch and (len(batch) + 1) * len(texts[index]) > MAX_BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
