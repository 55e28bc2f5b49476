"""Embeddings: from a body to tokens on any thread, from tokens to vectors on the model's own."""

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

from .config import Config
from .encoder import Encoder
from .errors import Refusal, too_long
from .prompt import Prompts
from .tokens import Tokens

# Texts that share a pass are padded to the longest: so many tokens at most, padding included.
TOGETHER = 4096
Vectors = Future[list[bytes]]


class Embedder:
    """Answers /v1/embeddings, /tokenize and /detokenize of one encoder.

    Args:
        config: how to serve.
    """

    def __init__(self, config: Config) -> None:
        if config.device == "cpu":
            mx.set_default_device(mx.cpu)
        self._context = config.context
        self._encoder = Encoder(config.model, config.widen)
        tokenizer = tokenizer_utils.load(Path(config.model))
        self._prompts = Prompts(tokenizer, self._encoder.vocabulary)
        self.tokens = Tokens(self._prompts, config.context)
        self._inbox: queue.SimpleQueue[tuple[list[list[int]], Vectors]] = queue.SimpleQueue()
        self.passes = 0

    def run(self) -> None:
        """Compute for ever; the only thread that touches the model."""
        while True:
            texts, done = self._inbox.get()
            if not done.set_running_or_notify_cancel():
                continue
            try:
                done.set_result(self._compute(texts))
            except BaseException as error:
                done.set_exception(error)
                raise

    async def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer a request for vectors, in base64.

        Raises:
            Refusal: the body is malformed, or a text is too long.
        """
        texts = await asyncio.to_thread(self._read, body)
        done: Vectors = Future()
        self._inbox.put((texts, done))
        rows = await asyncio.wrap_future(done)
        count = sum(map(len, texts))
        data = [
            {"object": "embedding", "index": index, "embedding": base64.b64encode(row).decode()}
            for index, row in enumerate(rows)
        ]
        usage = {"prompt_tokens": count, "total_tokens": count}
        return {"object": "list", "data": data, "usage": usage}

    def metrics(self) -> dict[str, int]:
        """Count what was done."""
        return {"steps": self.passes, "waiting": self._inbox.qsize()}

    def _read(self, body: dict[str, Any]) -> list[list[int]]:
        given = body.get("input")
        if not isinstance(given, list) or not given:
            raise Refusal("'input' must be a list of texts or of lists of tokens.", param="input")
        texts = [self._prompts.completion({"prompt": each}) for each in given]
        longest = max(map(len, texts))
        if longest > self._context:
            raise too_long(longest, self._context)
        return texts

    def _compute(self, texts: list[list[int]]) -> list[bytes]:
        rows = [b""] * len(texts)
        for group in _groups(texts):
            self.passes += 1
            vectors = self._encoder([texts[index] for index in group])
            width = vectors.shape[1] * 4
            data = bytes(memoryview(vectors).cast("B"))
            for place, index in enumerate(group):
                rows[index] = data[place * width : (place + 1) * width]
        return rows


def _groups(texts: list[list[int]]) -> Iterator[list[int]]:
    """Put texts of like length together, so that little is padding."""
    group: list[int] = []
    for index in sorted(range(len(texts)), key=lambda each: len(texts[each])):
        if group and (len(group) + 1) * len(texts[index]) > TOGETHER:
            yield group
            group = []
        group.append(index)
    if group:
        yield group
