"""Stop sequences, for engines whose own handling is incomplete.

llama.cpp holds back text that may start a stop sequence, and drops it if the completion ends at
`max_tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm_obtain.protocol.events import Event, Finish, TextDelta

_CHOICE_EVENTS = (TextDelta, Finish)


@dataclass
class _Choice:
    """Text deltas of a choice that are held back, because a stop sequence may start in them."""

    pieces: list[TextDelta] = field(default_factory=list)
    text: str = ""
    finished: bool = False


class StopSequenceFilter:
    """Ends choices before the first stop sequence.

    Args:
        texts: the stop sequences.
        choices: number of choices.
    """

    def __init__(self, texts: list[str], choices: int) -> None:
        self._texts = texts
        self.found = False  # whether a choice ended at a stop sequence
        self.swallowed = 0  # deltas dropped at a stop sequence
        self._choices = [_Choice() for _ in range(choices)]

    def filter(self, events: list[Event]) -> list[Event]:
        """Return the events without those after a stop sequence."""
        output: list[Event] = []
        for event in events:
            if not isinstance(event, _CHOICE_EVENTS):
                output.append(event)
                continue
            choice = self._choices[event.index]
            if choice.finished:
                continue
            if isinstance(event, TextDelta):
                output += self._take(choice, event)
            else:
                choice.finished = True
                output += [*choice.pieces, event]
        return output

    def _take(self, choice: _Choice, piece: TextDelta) -> list[Event]:
        choice.pieces.append(piece)
        choice.text += piece.text
        matches = [(at, text) for text in self._texts if (at := choice.text.find(text)) >= 0]
        if matches:
            choice.finished = self.found = True
            end, stop = min(matches)
            output = _before(choice.pieces, end)
            self.swallowed += len(choice.pieces) - len(output)
            return [*output, Finish("stop", piece.index, stop)]
        keep = self._may_begin(choice.text)
        out: list[Event] = []
        while choice.pieces and len(choice.pieces[0].text) <= keep:
            keep -= len(choice.pieces[0].text)
            choice.text = choice.text[len(choice.pieces[0].text) :]
            out.append(choice.pieces.pop(0))
        return out

    def _may_begin(self, text: str) -> int:
        """Return the earliest index where an incomplete stop sequence may start."""
        longest = max(len(stop) for stop in self._texts) - 1
        for at in range(max(0, len(text) - longest), len(text)):
            if any(stop.startswith(text[at:]) for stop in self._texts):
                return at
        return len(text)


def _before(pieces: list[TextDelta], end: int) -> list[Event]:
    """Truncate deltas at an index of their joined text."""
    out: list[Event] = []
    for piece in pieces:
        if end <= 0:
            break
        out.append(TextDelta(piece.text[:end], piece.logprobs, piece.index))
        end -= len(piece.text)
    return out
