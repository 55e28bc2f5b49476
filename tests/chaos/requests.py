"""What the clients ask: every request has a number, and its answer has to give that one back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

REAL, ECHO = "smollm2-135m", "echo"
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
# Of the questions that are asked again and again, so that most answers come from the cache.
KNOWN = 12
# Their prompts take seconds on a small machine.
LONG = ("long prompt", "tool")
_WORDS = "river stone window garden letter music winter bridge candle forest".split()


@dataclass(frozen=True)
class CheckedRequest:
    """One request, and how its answer is judged.

    Args:
        kind: for the count.
        path: the route.
        body: what is sent.
        right: whether a whole answer's text, or a call's arguments, is its own.
        model: whom it asks.
        leaves_after: seconds after which the client closes the connection, None for never.
    """

    kind: str
    path: str
    body: dict[str, Any]
    right: Callable[[str], bool] = field(repr=False)
    model: str = REAL
    leaves_after: float | None = None

    @property
    def streamed(self) -> bool:
        """Whether it asks for a stream."""
        return bool(self.body.get("stream"))

    @property
    def cacheable(self) -> bool:
        """Whether its answer may come from the cache: it is no sign of an engine's life then."""
        return self.body.get("temperature") == 0


class RequestGenerator:
    """Makes up requests.

    Args:
        draw: the random numbers of this run.
    """

    def __init__(self, draw: random.Random) -> None:
        self._draw = draw
        self._number = 10_000
        self._only_short = False
        self._long_ones = 0
        self._kinds = [self._choice, self._form, self._tool, self._long, self._text, self._known]
        self._kinds += [self._story, self._story, self._leaving, self._leaving]

    def next(self, model: str) -> CheckedRequest:
        """Make up the next one for a model."""
        self._number += 1
        if model == ECHO:
            return self._echo()
        return self._short() if self._only_short else self._draw.choice(self._kinds)()

    def sent(self, asked: CheckedRequest) -> None:
        """Note a request that is on its way."""
        self._long_ones += asked.kind in LONG

    def answered(self, asked: CheckedRequest) -> None:
        """Note that it is no longer."""
        self._long_ones -= asked.kind in LONG

    @contextlib.asynccontextmanager
    async def short(self) -> AsyncIterator[None]:
        """Have only streams with short prompts on their way during a block."""
        self._only_short = True
        try:
            while self._long_ones:
                await asyncio.sleep(0.05)
            yield
        finally:
            self._only_short = False

    def _chat(
        self, kind: str, text: str, right: Callable[[str], bool], **more: Any
    ) -> CheckedRequest:
        body = {
            "model": REAL,
            "messages": [{"role": "user", "content": f"My number is {self._number}. {text}"}],
            "max_tokens": 40,
            "temperature": 1,
            "stream": self._draw.random() < 0.5,
            **more,
        }
        return CheckedRequest(kind, CHAT, body, right)

    def _choice(self) -> CheckedRequest:
        mine = f"it is {self._number}"
        return self._chat("choice", "What is it?", mine.__eq__, guided_choice=[mine])

    def _short(self) -> CheckedRequest:
        mine = f" {self._number}"
        body = {
            "model": REAL,
            "prompt": f"{self._number},",
            "guided_choice": [mine],
            "max_tokens": 24,
            "temperature": 1,
            "stream": True,
        }
        return CheckedRequest("short", TEXT, body, mine.__eq__)

    def _form(self) -> CheckedRequest:
        schema = {
            "type": "object",
            "properties": {"number": {"const": self._number}},
            "required": ["number"],
            "additionalProperties": False,
        }
        form = {"type": "json_schema", "json_schema": {"name": "mine", "schema": schema}}
        return self._chat("form", "As JSON.", _holds(self._number), response_format=form)

    def _tool(self) -> CheckedRequest:
        parameters = {
            "type": "object",
            "properties": {"number": {"const": self._number}},
            "required": ["number"],
            "additionalProperties": False,
        }
        tool = {"type": "function", "function": {"name": "note", "parameters": parameters}}
        named = {"type": "function", "function": {"name": "note"}}
        right = _holds(self._number)
        return self._chat("tool", "Note it.", right, tools=[tool], tool_choice=named, max_tokens=80)

    def _long(self) -> CheckedRequest:
        words = " ".join(self._draw.choices(_WORDS, k=self._draw.randint(200, 600)))
        mine = f"it is {self._number}"
        return self._chat(LONG[0], words, mine.__eq__, guided_choice=[mine])

    def _story(self) -> CheckedRequest:
        return self._told("story", {"stream": True})

    def _leaving(self) -> CheckedRequest:
        ask = self._told("leaves", {})
        return CheckedRequest(
            ask.kind, ask.path, ask.body, ask.right, leaves_after=self._draw.uniform(0.02, 2)
        )

    def _told(self, kind: str, more: dict[str, Any]) -> CheckedRequest:
        """An answer that takes its time."""
        form = rf"{self._number}( [a-z]{{2,6}}){{20}}"
        right = _matches(form)
        return self._chat(kind, "Tell me.", right, guided_regex=form, max_tokens=200, **more)

    def _text(self) -> CheckedRequest:
        mine = f"{self._number} {self._number + 1}"
        body = {
            "model": REAL,
            "prompt": f"{self._number - 2} {self._number - 1} ",
            "guided_regex": mine,
            "max_tokens": 24,
            "temperature": 1,
            "stream": self._draw.random() < 0.5,
        }
        return CheckedRequest("text", TEXT, body, mine.__eq__)

    def _known(self) -> CheckedRequest:
        """One of a few questions, in words that show a mix-up, for the cache."""
        mine = f"it is {self._draw.randint(1, KNOWN)}"
        text = f"Say {mine}."
        body = {
            "model": REAL,
            "messages": [{"role": "user", "content": text}],
            "guided_choice": [mine],
            "max_tokens": 24,
            "temperature": 0,
            "stream": self._draw.random() < 0.5,
        }
        return CheckedRequest("known", CHAT, body, mine.__eq__)

    def _echo(self) -> CheckedRequest:
        """The fake engine says the words of the prompt."""
        cacheable = self._draw.random() < 0.3
        number = self._draw.randint(1, KNOWN) if cacheable else self._number
        words = f"{number} " + " ".join(self._draw.choices(_WORDS, k=self._draw.randint(2, 20)))
        if cacheable:
            words = f"{number} " + " ".join(_WORDS[:5])
        body = {
            "model": ECHO,
            "prompt": words,
            "max_tokens": 64,
            "temperature": 0 if cacheable else 1,
            "stream": self._draw.random() < 0.5,
        }
        return CheckedRequest("echo", TEXT, body, lambda said: said.split() == words.split(), ECHO)


def _matches(form: str) -> Callable[[str], bool]:
    return lambda said: re.fullmatch(form, said) is not None


def _holds(number: int) -> Callable[[str], bool]:
    def right(said: str) -> bool:
        try:
            return bool(json.loads(said) == {"number": number})
        except ValueError:
            return False

    return right
