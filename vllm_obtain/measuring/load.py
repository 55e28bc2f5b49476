"""The load: so many streams at once, each asking again when it is answered, within bounds."""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from vllm_obtain.measuring.client import Target, ask
from vllm_obtain.measuring.figures import Answer

# Seconds in which a model has to be loaded.
_PATIENCE = 900
# Common words: one token each in most vocabularies.
_WORDS = (
    "the house on the hill has a green door and two small windows from which one can see the river "
    "and the old bridge where people stop to talk about the weather and their work"
).split()


class Unanswered(Exception):
    """The service answers no chat at all; the message is for the user."""


@dataclass(frozen=True)
class Wish:
    """What each request asks for.

    Args:
        model: its name, empty for the service's default.
        prompt_tokens: of the prompt, about.
        answer_tokens: of the answer.
        whole: whether the answer goes on where the model would end it.
    """

    model: str
    prompt_tokens: int
    answer_tokens: int
    whole: bool = True

    def body(self, number: int) -> dict[str, Any]:
        """Write a request that no other one is like, so that no cache knows it.

        Args:
            number: of the request.
        """
        # What differs stands in front, where caches of prompts look first.
        start = [f"{secrets.token_hex(4)}", str(number)]
        words = itertools.islice(itertools.cycle(_WORDS), max(1, self.prompt_tokens - 6))
        return {
            **({"model": self.model} if self.model else {}),
            "messages": [{"role": "user", "content": " ".join((*start, *words))}],
            "max_tokens": self.answer_tokens,
            **({"ignore_eos": True} if self.whole else {}),
            "stream": True,
            "stream_options": {"include_usage": True},
        }


async def warmed(target: Target, wish: Wish) -> Wish:
    """Have the model loaded, and find out what the service understands.

    Args:
        target: whom.
        wish: what shall be asked.

    Returns:
        The wish as this service takes it.

    Raises:
        Unanswered: it does not answer; the message says why.
    """
    for tried in (wish, Wish(wish.model, wish.prompt_tokens, wish.answer_tokens, whole=False)):
        answer = Answer(0.0)
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                await ask(target, tried.body(0) | {"max_tokens": 2}, answer)
        if answer.cut:
            answer.error = f"nothing came within {_PATIENCE} s"
        if not answer.error:
            return tried
        # Not every service knows how to go on at the end of a text.
        if not answer.error.startswith("400") or "ignore_eos" not in answer.error:
            break
    hint = " Start the service (`vllm-obtain serve`), or name another with --url."
    said = answer.error if answer.error[:1].isdigit() else f"{answer.error}.{hint}"
    raise Unanswered(f"{target.url} does not answer a chat: {said}")


async def run(
    target: Target,
    wish: Wish,
    streams: int,
    requests: int,
    seconds: float,
    answers: list[Answer],
    heard: Callable[[], None] = lambda: None,
) -> None:
    """Keep so many streams going, until so many requests are answered or the time is up.

    Args:
        target: whom.
        wish: what each request asks for.
        streams: how many at once.
        requests: how many in all.
        seconds: after which what runs is cut off.
        answers: takes what becomes of them, also when this is cancelled.
        heard: is called after each.
    """
    numbers = iter(range(1, requests + 1))
    try:
        async with asyncio.timeout(seconds):
            await asyncio.gather(
                *(_stream(target, wish, numbers, answers, heard) for _ in range(streams))
            )
    except TimeoutError:
        pass


async def _stream(
    target: Target,
    wish: Wish,
    numbers: Iterator[int],
    answers: list[Answer],
    heard: Callable[[], None],
) -> None:
    for number in numbers:
        answer = Answer(0.0)
        answers.append(answer)
        await ask(target, wish.body(number), answer)
        heard()
