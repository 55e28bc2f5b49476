"""Load generator: a fixed number of concurrent streams, each sending request after request."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from vllm_obtain.benchmark.client import Target, send_chat
from vllm_obtain.benchmark.stats import RequestResult

# Seconds that loading the model may take.
_LOAD_TIMEOUT = 900
# Common words: one token each in most vocabularies.
_WORDS = (
    "the house on the hill has a green door and two small windows from which one can see the river "
    "and the old bridge where people stop to talk about the weather and their work"
).split()


class BenchmarkError(Exception):
    """The service cannot complete a chat request. The message is for the user."""


@dataclass(frozen=True)
class LoadSpec:
    """Content of each request.

    Args:
        model: model name; empty for the default model.
        prompt_tokens: approximate tokens of the prompt.
        answer_tokens: tokens of the completion.
        ignore_eos: whether the completion continues after an end-of-sequence token.
    """

    model: str
    prompt_tokens: int
    answer_tokens: int
    ignore_eos: bool = True

    def body(self, number: int) -> dict[str, Any]:
        """Create a unique request body, so that no cache has a response or prefix for it.

        Args:
            number: number of the request.
        """
        # Prefix caches match from the start of the prompt.
        prefix = [f"{secrets.token_hex(4)}", str(number)]
        words = itertools.islice(itertools.cycle(_WORDS), max(1, self.prompt_tokens - 6))
        return {
            **({"model": self.model} if self.model else {}),
            "messages": [{"role": "user", "content": " ".join((*prefix, *words))}],
            "max_tokens": self.answer_tokens,
            **({"ignore_eos": True} if self.ignore_eos else {}),
            "stream": True,
            "stream_options": {"include_usage": True},
        }


async def warm_up(target: Target, spec: LoadSpec) -> LoadSpec:
    """Load the model and find out whether the service supports `ignore_eos`.

    Args:
        target: the service.
        spec: content of the requests.

    Returns:
        The spec that this service accepts.

    Raises:
        BenchmarkError: the service cannot complete a chat request.
    """
    for candidate in (spec, replace(spec, ignore_eos=False)):
        result = RequestResult(0.0)
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOAD_TIMEOUT):
                await send_chat(target, candidate.body(0) | {"max_tokens": 2}, result)
        if result.cut:
            result.error = f"no complete response within {_LOAD_TIMEOUT} s"
        if not result.error:
            return candidate
        if not result.error.startswith("400") or "ignore_eos" not in result.error:
            break
    hint = (
        " Start the service with `vllm-obtain serve`, or set the URL of a running one with --url."
    )
    reason = result.error if result.error[:1].isdigit() else f"{result.error}.{hint}"
    raise BenchmarkError(f"The chat request to {target.url} failed: {reason}")


async def run(
    target: Target,
    spec: LoadSpec,
    streams: int,
    requests: int,
    seconds: float,
    results: list[RequestResult],
    on_result: Callable[[], None] = lambda: None,
) -> None:
    """Send requests over concurrent streams until all are completed or the time is up.

    Args:
        target: the service.
        spec: content of each request.
        streams: number of concurrent streams.
        requests: number of requests over all streams.
        seconds: time limit; requests in flight are then cancelled.
        results: receives the result of each request, also when this coroutine is cancelled.
        on_result: called after each request.
    """
    numbers = iter(range(1, requests + 1))
    try:
        async with asyncio.timeout(seconds):
            await asyncio.gather(
                *(_stream(target, spec, numbers, results, on_result) for _ in range(streams))
            )
    except TimeoutError:
        pass


async def _stream(
    target: Target,
    spec: LoadSpec,
    numbers: Iterator[int],
    results: list[RequestResult],
    on_result: Callable[[], None],
) -> None:
    for number in numbers:
        result = RequestResult(0.0)
        results.append(result)
        await send_chat(target, spec.body(number), result)
        on_result()
