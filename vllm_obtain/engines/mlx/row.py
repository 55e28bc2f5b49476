"""One request on its way through the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .events import Delta, Event, Failure, Finish, Progress
from .logprobs import Told, entry
from .memory import STEP
from .request import Request
from .text import Pieces, TextStream


def horizon(request: Request, generated: int) -> int:
    """Work out how many tokens a request's cache must have room for.

    Args:
        request: what was asked.
        generated: how many tokens it has got so far.

    Returns:
        The whole answer if the client named its length, otherwise a step more than there are.
    """
    prompt = len(request.tokens)
    most = prompt + request.max_tokens
    return most if request.bounded else min(most, ((prompt + generated) // STEP + 2) * STEP)


class Row:
    """What is known of one choice of a request; only the generation thread touches it.

    Args:
        request: what was asked.
        choice: which of its choices.
        pieces: the bytes of each token.
        ends: tokens with which the model ends an answer.
    """

    def __init__(self, request: Request, choice: int, pieces: Pieces, ends: set[int]) -> None:
        self.request = request
        self.choice = choice
        self.sampling = request.sampling.for_choice(choice)
        self.matcher = None if request.grammar is None else request.grammar.matcher()
        self.generated: list[int] = []
        self.drawn = 0
        self.cached = 0
        self._pieces = pieces
        self._ends = ends
        self._text = TextStream(pieces, request.stop)
        self._entries: list[tuple[int, dict[str, Any]]] = []

    @property
    def tokens(self) -> list[int]:
        """All tokens, of prompt and answer."""
        return self.request.tokens + self.generated

    @property
    def horizon(self) -> int:
        """How many tokens its cache must have room for."""
        return horizon(self.request, len(self.generated))

    def progress(self, processed: int) -> Progress:
        """Tell how far the prompt is."""
        return Progress(len(self.request.tokens), processed, self.cached)

    def take(self, token: int, told: Told) -> Iterator[Event]:
        """Take a generated token; tell what comes of it, a `Finish` last if it was the end."""
        self.generated.append(token)
        if token in self._ends:
            yield from self.finish("stop")
            return
        if self.matcher is not None and (problem := self.matcher.problem):
            yield Failure(f"The grammar could not be followed any further: {problem}")
            return
        if self.request.logprobs is not None:
            shaped = entry(token, told, self.request.logprobs, self._pieces)
            self._entries.append((len(self._pieces[token]), shaped))
        text = self._text.add(token)
        if text:
            yield self._delta(text)
        if self._text.stopped:
            yield self._end("stop")
        elif len(self.generated) >= self.request.max_tokens:
            yield from self.finish("length")

    def finish(self, reason: str) -> Iterator[Event]:
        """End the answer; text that waited for the rest of a stop text goes out."""
        if text := self._text.end():
            yield self._delta(text)
        yield self._end("stop" if self._text.stopped else reason)

    def _delta(self, text: str) -> Delta:
        if self.request.logprobs is None:
            return Delta(text, None, self.choice)
        count = len(self._entries)
        if self._text.stopped or self._text.holds:
            count = self._covering(len(text.encode()))
        going, self._entries = self._entries[:count], self._entries[count:]
        return Delta(text, [shaped for _, shaped in going], self.choice)

    def _covering(self, size: int) -> int:
        """Count the tokens that make up so many bytes: those of a held text are not told yet."""
        for count, (length, _) in enumerate(self._entries):
            if size <= 0:
                return count
            size -= length
        return len(self._entries)

    def _end(self, reason: str) -> Finish:
        prompt, answer = len(self.request.tokens), len(self.generated)
        return Finish(reason, prompt, answer, self.cached, self.choice, self._text.stopped)
