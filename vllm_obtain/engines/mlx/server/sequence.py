"""The state of one sequence (a choice of a request) in the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .detokenizer import Detokenizer, TokenPieces
from .events import Delta, Event, Failure, Finish, Progress
from .logprobs import TokenLogprobs, entry
from .memory_budget import STEP
from .request import Request


def horizon(request: Request, generated: int) -> int:
    """Return the number of tokens to reserve in the KV cache.

    Args:
        request: the request.
        generated: number of tokens generated so far.

    Returns:
        The maximum length if the client set `max_tokens`, otherwise the next step of the cache.
    """
    prompt = len(request.tokens)
    most = prompt + request.max_tokens
    return most if request.bounded else min(most, ((prompt + generated) // STEP + 2) * STEP)


class SequenceState:
    """The state of one choice; used by the generation thread only.

    Args:
        request: the request.
        choice: index of the choice.
        pieces: the bytes of each token.
        ends: EOS tokens.
    """

    def __init__(self, request: Request, choice: int, pieces: TokenPieces, ends: set[int]) -> None:
        self.request = request
        self.choice = choice
        self.sampling = request.sampling.for_choice(choice)
        self.matcher = None if request.grammar is None else request.grammar.matcher()
        self.generated: list[int] = []
        self.sampled_count = 0
        self.cached = 0
        self._pieces = pieces
        self._ends = ends
        self._text = Detokenizer(pieces, request.stop)
        self._entries: list[tuple[int, dict[str, Any]]] = []

    @property
    def tokens(self) -> list[int]:
        """The tokens of the prompt and of the completion."""
        return self.request.tokens + self.generated

    @property
    def horizon(self) -> int:
        """The number of tokens to reserve in the KV cache."""
        return horizon(self.request, len(self.generated))

    def progress(self, processed: int) -> Progress:
        """Create a progress event of the prefill."""
        return Progress(len(self.request.tokens), processed, self.cached)

    def add(self, token: int, logprobs: TokenLogprobs) -> Iterator[Event]:
        """Add a generated token and yield its events; `Finish` or `Failure` is the last one."""
        self.generated.append(token)
        if token in self._ends:
            yield from self.finish("stop")
            return
        if self.matcher is not None and (problem := self.matcher.problem):
            yield Failure(f"Structured output failed: {problem}. Simplify the grammar or schema.")
            return
        if self.request.logprobs is not None:
            logprobs_entry = entry(token, logprobs, self.request.logprobs, self._pieces)
            self._entries.append((len(self._pieces[token]), logprobs_entry))
        text = self._text.add(token)
        if text:
            yield self._delta(text)
        if self._text.stopped:
            yield self._end("stop")
        elif len(self.generated) >= self.request.max_tokens:
            yield from self.finish("length")

    def finish(self, reason: str) -> Iterator[Event]:
        """End the completion and send text withheld for a stop sequence."""
        if text := self._text.end():
            yield self._delta(text)
        yield self._end("stop" if self._text.stopped else reason)

    def _delta(self, text: str) -> Delta:
        if self.request.logprobs is None:
            return Delta(text, None, self.choice)
        count = len(self._entries)
        if self._text.stopped or self._text.is_withholding:
            count = self._count_tokens(len(text.encode()))
        sent, self._entries = self._entries[:count], self._entries[count:]
        return Delta(text, [logprobs_entry for _, logprobs_entry in sent], self.choice)

    def _count_tokens(self, size: int) -> int:
        """Count the tokens of the first `size` bytes; tokens of withheld text are not sent yet."""
        for count, (length, _) in enumerate(self._entries):
            if size <= 0:
                return count
            size -= length
        return len(self._entries)

    def _end(self, reason: str) -> Finish:
        prompt, completion = len(self.request.tokens), len(self.generated)
        return Finish(reason, prompt, completion, self.cached, self.choice, self._text.stopped)
