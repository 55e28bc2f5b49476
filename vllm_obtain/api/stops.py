"""Stop texts, for engines that do not keep to them as they should.

llama.cpp keeps back what may begin one, and loses it when the answer ends at `max_tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm_obtain.protocol.events import Delta, Event, Finish

_TOLD = (Delta, Finish)


@dataclass
class _Choice:
    """Pieces of a choice that are kept back, since a stop text may begin in them."""

    pieces: list[Delta] = field(default_factory=list)
    text: str = ""
    over: bool = False


class Stops:
    """Ends choices before the first stop text.

    Args:
        texts: that end a choice.
        choices: how many there are.
    """

    def __init__(self, texts: list[str], choices: int) -> None:
        self._texts = texts
        self.found = False  # whether a choice ended at one
        self.swallowed = 0  # pieces that came and were not passed on for that
        self._choices = [_Choice() for _ in range(choices)]

    def read(self, events: list[Event]) -> list[Event]:
        """Let events pass, but for those behind a stop text."""
        passed: list[Event] = []
        for event in events:
            if not isinstance(event, _TOLD):
                passed.append(event)
                continue
            choice = self._choices[event.index]
            if choice.over:
                continue
            if isinstance(event, Delta):
                passed += self._take(choice, event)
            else:
                choice.over = True
                passed += [*choice.pieces, event]
        return passed

    def _take(self, choice: _Choice, piece: Delta) -> list[Event]:
        choice.pieces.append(piece)
        choice.text += piece.text
        found = [(at, text) for text in self._texts if (at := choice.text.find(text)) >= 0]
        if found:
            choice.over = self.found = True
            end, stop = min(found)
            passed = _before(choice.pieces, end)
            self.swallowed += len(choice.pieces) - len(passed)
            return [*passed, Finish("stop", piece.index, stop)]
        keep = self._may_begin(choice.text)
        out: list[Event] = []
        while choice.pieces and len(choice.pieces[0].text) <= keep:
            keep -= len(choice.pieces[0].text)
            choice.text = choice.text[len(choice.pieces[0].text) :]
            out.append(choice.pieces.pop(0))
        return out

    def _may_begin(self, text: str) -> int:
        """Find where the earliest stop text may begin whose end is not there yet."""
        longest = max(len(stop) for stop in self._texts) - 1
        for at in range(max(0, len(text) - longest), len(text)):
            if any(stop.startswith(text[at:]) for stop in self._texts):
                return at
        return len(text)


def _before(pieces: list[Delta], end: int) -> list[Event]:
    """Cut pieces off at a place in their text."""
    out: list[Event] = []
    for piece in pieces:
        if end <= 0:
            break
        out.append(Delta(piece.text[:end], piece.logprobs, piece.index))
        end -= len(piece.text)
    return out
