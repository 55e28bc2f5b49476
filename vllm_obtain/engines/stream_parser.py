"""Parses an engine's stream: server-sent events of OpenAI's chunks, with engines' extensions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from vllm_obtain.errors import ContextLengthExceeded, EngineFailed, InvalidRequest, ServiceError
from vllm_obtain.protocol.events import Event, Finish, PromptProgress, TextDelta, Usage


class _Delta(Struct):
    content: str | None = None


class _Choice(Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    logprobs: Any = None
    finish_reason: str | None = None
    stop_reason: Any = None  # vLLM: the stop sequence, or the id of a token


class _PromptDetails(Struct):
    cached_tokens: int | None = None


class _Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _PromptDetails | None = None

    @property
    def cached(self) -> int:
        details = self.prompt_tokens_details
        return (details.cached_tokens or 0) if details else 0


class _Progress(Struct):
    total: int
    processed: int
    cache: int = 0


class _Error(Struct):
    message: str = "unknown error"
    type: str = ""
    code: int | str | None = None
    param: str | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class _Chunk(Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    timings: Any = None
    prompt_progress: _Progress | None = None
    error: _Error | None = None
    # Fields of llama.cpp's native response, which it uses for prompts with images.
    content: str | None = None
    index: int = 0
    completion_probabilities: list[Any] | None = None
    stop_type: str | None = None
    tokens_predicted: int = 0
    tokens_evaluated: int = 0

    @property
    def is_last(self) -> bool:
        """Whether its usage covers the whole completion: alone, or with llama.cpp's timings."""
        return not self.choices or self.timings is not None


# vLLM reports these numbers only in the message, and counts at most one token too many.
_VLLM_CONTEXT = re.compile(r"maximum context length is (\d+) tokens")
_VLLM_PROMPT = re.compile(r"contains (at least )?(\d+) input tokens")
# llama.cpp, for input that has to fit into one batch.
_LLAMA_BATCH = re.compile(r"input \((\d+) tokens\) is too large .*batch size: (\d+)\)")
# llama.cpp and vLLM, for an image that does not match its header.
_BROKEN_IMAGE = "Failed to load image"
# vLLM, for a prompt without the model's image placeholder.
_VLLM_PLACEHOLDER = "Failed to apply prompt"
# vLLM, when its engine core process has died.
_VLLM_DEAD = "EngineCore encountered an issue"

# Error code of an engine process that cannot serve any more requests.
ENGINE_DEAD = "engine_dead"

_decoder = msgspec.json.Decoder(_Chunk)


def read_chunk(data: bytes) -> list[Event]:
    """Turn the data of one server-sent event into events.

    Args:
        data: the JSON after `data: `; not `[DONE]`.

    Returns:
        The events in order; empty for a chunk with nothing new.

    Raises:
        ServiceError: the engine reported an error, or the chunk is malformed.
    """
    try:
        chunk = _decoder.decode(data)
        if chunk.error is None:
            return _events(chunk)
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError, AttributeError):
        # Log probabilities are decoded without a schema.
        raise EngineFailed("The engine sent a malformed chunk. Try again.") from None
    raise _engine_error(chunk.error)


def _events(chunk: _Chunk) -> list[Event]:
    events: list[Event] = []
    if chunk.usage is not None and not chunk.is_last:
        # Usage before the end: the prompt is processed, and this is its exact length.
        tokens = chunk.usage.prompt_tokens
        events.append(PromptProgress(tokens, tokens, chunk.usage.cached))
    if (progress := chunk.prompt_progress) is not None:
        events.append(PromptProgress(progress.total, progress.processed, progress.cache))
    if chunk.content is not None:
        events += _native_events(chunk)
    for choice in chunk.choices:
        text = choice.text if choice.delta is None else choice.delta.content
        if text:
            logprobs = choice.logprobs and _chat_logprobs(choice.logprobs)
            events.append(TextDelta(text, logprobs, choice.index))
        if choice.finish_reason is not None:
            stop = choice.stop_reason if isinstance(choice.stop_reason, str) else None
            events.append(Finish(choice.finish_reason, choice.index, stop))
    if (usage := chunk.usage) is not None and chunk.is_last:
        events.append(Usage(usage.prompt_tokens, usage.completion_tokens, usage.cached))
    return events


# llama.cpp's stop types as OpenAI's finish reasons.
_FINISH_REASONS = {"eos": "stop", "word": "stop", "limit": "length"}


def _native_events(chunk: _Chunk) -> Iterator[Event]:
    """Read llama.cpp's native response; its log probabilities have the chat shape."""
    if chunk.content and chunk.prompt_progress is None:
        tokens = chunk.completion_probabilities
        yield TextDelta(chunk.content, {"content": tokens} if tokens else None, chunk.index)
    if chunk.timings is not None:
        yield Finish(_FINISH_REASONS.get(chunk.stop_type or "", "stop"), chunk.index)
        cached = int(chunk.timings.get("cache_n", 0))
        yield Usage(chunk.tokens_evaluated, chunk.tokens_predicted, cached)


def _chat_logprobs(logprobs: Any) -> Any:
    """Convert the four parallel lists that vLLM sends for completions to the chat shape."""
    if not isinstance(logprobs, dict) or "tokens" not in logprobs:
        return logprobs
    alternatives = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    rows = zip(logprobs["tokens"], logprobs["token_logprobs"], alternatives, strict=True)
    return {
        "content": [
            {**_token(token, value), "top_logprobs": [_token(*pair) for pair in _ranked(others)]}
            for token, value, others in rows
        ]
    }


def _token(token: str, logprob: float | None) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _ranked(logprobs: dict[str, float] | None) -> list[tuple[str, float]]:
    return sorted((logprobs or {}).items(), key=lambda pair: -pair[1])


def read_error(body: bytes, status: int) -> ServiceError:
    """Turn an engine's error response into one of our errors.

    Args:
        body: the body, which may not be JSON.
        status: the HTTP status.
    """
    try:
        error = _decoder.decode(body).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        error = None
    if error is None:
        return EngineFailed(f"The engine returned HTTP status {status}.")
    return _engine_error(error, status)


def _engine_error(error: _Error, status: int = 500) -> ServiceError:
    if error.type == "exceed_context_size_error" and error.n_prompt_tokens and error.n_ctx:
        return ContextLengthExceeded(error.n_prompt_tokens, error.n_ctx)
    if match := _VLLM_CONTEXT.search(error.message):
        return _vllm_overflow(error.message, int(match[1]))
    if match := _LLAMA_BATCH.search(error.message):
        return ContextLengthExceeded(int(match[1]), int(match[2]))
    if _BROKEN_IMAGE in error.message:
        return InvalidRequest(
            "The engine cannot decode an image of the request. Send an undamaged image.",
            code="invalid_image",
        )
    if _VLLM_PLACEHOLDER in error.message:
        return InvalidRequest(
            "This model's chat template writes an image placeholder that vLLM does not know. Ask "
            "the operator to set another 'chat_template' for the model.",
            param="messages",
            code="chat_template_error",
        )
    if status in (400, 422) or error.code == 400:
        # Our MLX server sets a cause as the code; llama.cpp repeats the status there.
        code = error.code if isinstance(error.code, str) else None
        message = f"The engine rejected the request: {error.message}"
        return InvalidRequest(message, param=error.param, code=code)
    if _VLLM_DEAD in error.message or error.type == "EngineDeadError":
        return EngineFailed(f"The engine failed: {error.message}", code=ENGINE_DEAD)
    return EngineFailed(f"The engine failed: {error.message}")


def _vllm_overflow(message: str, context: int) -> ContextLengthExceeded:
    """Parse vLLM's message. For very long texts it has counted characters, not tokens."""
    prompt = _VLLM_PROMPT.search(message)
    if prompt is None:
        return ContextLengthExceeded(context, context, exact=False)
    return ContextLengthExceeded(int(prompt[2]), context, exact=prompt[1] is None)


class SSEDecoder:
    """Splits a byte stream into the data of its events."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, received: bytes) -> list[bytes]:
        """Decode the next bytes.

        Returns:
            The data of each event that is complete; comments and other fields are ignored.
        """
        text = self._rest + received if self._rest else received
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        *blocks, self._rest = text.split(b"\n\n")
        events = []
        for block in blocks:
            if block[:6] == b"data: " and b"\n" not in block:
                events.append(block[6:])
            elif (data := _data(block)) is not None:
                events.append(data)
        return events


def _data(block: bytes) -> bytes | None:
    """Read a block of several lines, or of none with data."""
    lines = [line[5:].lstrip(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None
