"""Reading an engine's stream: OpenAI's chunks, and what engines add to them, into events."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from vllm_obtain.errors import ContextLengthExceeded, EngineFailed, InvalidRequest, ServiceError
from vllm_obtain.protocol.events import Delta, Event, Finish, Progress, Usage


class _Delta(Struct):
    content: str | None = None


class _Choice(Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    logprobs: Any = None
    finish_reason: str | None = None
    stop_reason: Any = None  # vLLM's: the stop text, or the id of a token


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
    # Of llama.cpp's own shape, which it has for prompts with images.
    content: str | None = None
    index: int = 0
    completion_probabilities: list[Any] | None = None
    stop_type: str | None = None
    tokens_predicted: int = 0
    tokens_evaluated: int = 0

    @property
    def is_last(self) -> bool:
        """Whether its usage is the whole answer's: alone, or with llama.cpp's timings."""
        return not self.choices or self.timings is not None


# vLLM gives its numbers in words only, and counts no further than one token too many.
_VLLM_CONTEXT = re.compile(r"maximum context length is (\d+) tokens")
_VLLM_PROMPT = re.compile(r"contains (at least )?(\d+) input tokens")
# And so does llama.cpp about what it must read in one piece.
_LLAMA_WHOLE = re.compile(r"input \((\d+) tokens\) is too large .*batch size: (\d+)\)")
# And of an image that is not what its header promised; vLLM says it in the same words.
_BROKEN_IMAGE = "Failed to load image"
# What vLLM says when the prompt does not have what the model reads as an image's place.
_VLLM_PLACE = "Failed to apply prompt"
# What vLLM says when the process behind its HTTP front has died.
_VLLM_DEAD = "EngineCore encountered an issue"

# The code of an error that means: this engine process will answer nothing any more.
ENGINE_DEAD = "engine_dead"

_decoder = msgspec.json.Decoder(_Chunk)


def read_chunk(data: bytes) -> list[Event]:
    """Turn the data of one server-sent event into events.

    Args:
        data: the JSON after `data: `; not `[DONE]`.

    Returns:
        The events in the order in which they happened; empty for a chunk that says nothing new.

    Raises:
        ServiceError: the engine reported an error, or its chunk cannot be read.
    """
    try:
        chunk = _decoder.decode(data)
        if chunk.error is None:
            return _events(chunk)
    except (msgspec.MsgspecError, LookupError, TypeError, ValueError, AttributeError):
        # Log probabilities have no fixed shape before they are looked at.
        raise EngineFailed("The engine sent a chunk that cannot be read.") from None
    raise _engine_error(chunk.error)


def _events(chunk: _Chunk) -> list[Event]:
    events: list[Event] = []
    if chunk.usage is not None and not chunk.is_last:
        # Usage while the answer runs: the prompt is read, and this is its true length.
        tokens = chunk.usage.prompt_tokens
        events.append(Progress(tokens, tokens, chunk.usage.cached))
    if (progress := chunk.prompt_progress) is not None:
        events.append(Progress(progress.total, progress.processed, progress.cache))
    if chunk.content is not None:
        events += _own_shape(chunk)
    for choice in chunk.choices:
        text = choice.text if choice.delta is None else choice.delta.content
        if text:
            events.append(Delta(text, _one_shape(choice.logprobs), choice.index))
        if choice.finish_reason is not None:
            stop = choice.stop_reason if isinstance(choice.stop_reason, str) else None
            events.append(Finish(choice.finish_reason, choice.index, stop))
    if (usage := chunk.usage) is not None and chunk.is_last:
        events.append(Usage(usage.prompt_tokens, usage.completion_tokens, usage.cached))
    return events


# Why an answer ended, in llama.cpp's words and in OpenAI's.
_ENDS = {"eos": "stop", "word": "stop", "limit": "length"}


def _own_shape(chunk: _Chunk) -> Iterator[Event]:
    """Read what llama.cpp says in a shape of its own; its log probabilities are a chat's."""
    if chunk.content and chunk.prompt_progress is None:
        tokens = chunk.completion_probabilities
        yield Delta(chunk.content, {"content": tokens} if tokens else None, chunk.index)
    if chunk.timings is not None:
        yield Finish(_ENDS.get(chunk.stop_type or "", "stop"), chunk.index)
        cached = int(chunk.timings.get("cache_n", 0))
        yield Usage(chunk.tokens_evaluated, chunk.tokens_predicted, cached)


def _one_shape(logprobs: Any) -> Any:
    """Turn the four parallel lists that vLLM sends for text completions into the chat shape."""
    if not isinstance(logprobs, dict) or "tokens" not in logprobs:
        return logprobs
    others = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    rows = zip(logprobs["tokens"], logprobs["token_logprobs"], others, strict=True)
    return {
        "content": [
            {**_token(token, value), "top_logprobs": [_token(*pair) for pair in _ranked(more)]}
            for token, value, more in rows
        ]
    }


def _token(token: str, logprob: float | None) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode())}


def _ranked(others: dict[str, float] | None) -> list[tuple[str, float]]:
    return sorted((others or {}).items(), key=lambda pair: -pair[1])


def read_error(body: bytes, status: int) -> ServiceError:
    """Turn an engine's error answer into ours.

    Args:
        body: the answer's body, which need not be JSON.
        status: the answer's HTTP status.
    """
    try:
        error = _decoder.decode(body).error
    except (msgspec.MsgspecError, UnicodeDecodeError):
        error = None
    if error is None:
        return EngineFailed(f"The engine answered with status {status}.")
    return _engine_error(error, status)


def _engine_error(error: _Error, status: int = 500) -> ServiceError:
    if error.type == "exceed_context_size_error" and error.n_prompt_tokens and error.n_ctx:
        return ContextLengthExceeded(error.n_prompt_tokens, error.n_ctx)
    if found := _VLLM_CONTEXT.search(error.message):
        return _vllm_overflow(error.message, int(found[1]))
    if found := _LLAMA_WHOLE.search(error.message):
        return ContextLengthExceeded(int(found[1]), int(found[2]))
    if _BROKEN_IMAGE in error.message:
        return InvalidRequest(
            "An image of the request is damaged: the engine cannot decode it. Send it anew.",
            code="invalid_image",
        )
    if _VLLM_PLACE in error.message:
        return InvalidRequest(
            "This model's chat template writes an image in a way that vLLM does not know. Have the "
            "owner of the service set another 'chat_template' for it.",
            param="messages",
            code="chat_template_error",
        )
    if status in (400, 422) or error.code == 400:
        # Engines that name the cause (ours for MLX) are believed; llama.cpp repeats the status.
        code = error.code if isinstance(error.code, str) else None
        message = f"The engine refused the request: {error.message}"
        return InvalidRequest(message, param=error.param, code=code)
    if _VLLM_DEAD in error.message or error.type == "EngineDeadError":
        return EngineFailed(f"The engine failed: {error.message}", code=ENGINE_DEAD)
    return EngineFailed(f"The engine failed: {error.message}")


def _vllm_overflow(message: str, context: int) -> ContextLengthExceeded:
    """Read vLLM's words; for a very long text it has counted characters and no tokens."""
    prompt = _VLLM_PROMPT.search(message)
    if prompt is None:
        return ContextLengthExceeded(context, context, exact=False)
    return ContextLengthExceeded(int(prompt[2]), context, exact=prompt[1] is None)
