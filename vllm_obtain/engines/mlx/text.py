"""From tokens to text that can go out: whole characters, up to the first stop text."""

from __future__ import annotations

import codecs
from typing import Any

_WORD_START = "\u2581".encode()


class Pieces:
    """The bytes that each token stands for.

    mlx-lm's streaming detokenizers hold text back for ever after bytes that are no UTF-8, and
    strip the space that a completion begins with; their tables of tokens are what is used here.

    Args:
        tokenizer: mlx-lm's wrapper.
    """

    def __init__(self, tokenizer: Any) -> None:
        table = getattr(tokenizer.detokenizer, "tokenmap", None)
        self._tokenizer = tokenizer
        self._table: list[Any] = table or []
        self._added = {
            token: b"" if added.special else added.content.encode()
            for token, added in getattr(tokenizer, "added_tokens_decoder", {}).items()
        }
        self._known: dict[int, bytes] = dict(self._added)
        self._bytes = {letter: byte for byte, letter in _byte_letters().items()}

    def special(self, token: int) -> bool:
        """Whether a token is a mark for the model, not text."""
        return self._added.get(token) == b""

    def __getitem__(self, token: int) -> bytes:
        piece = self._known.get(token)
        if piece is None:
            piece = self._known[token] = self._look_up(token)
        return piece

    def name(self, token: int) -> bytes:
        """Look up what a token is called: its bytes, for a mark its name."""
        if self.special(token):
            return str(self._tokenizer.convert_ids_to_tokens(token)).encode()
        return self[token]

    def _look_up(self, token: int) -> bytes:
        if not self._table:
            return str(self._tokenizer.decode([token])).encode()
        if token >= len(self._table) or self._table[token] is None:
            return b""  # models have more rows than their tokenizers have tokens
        entry = self._table[token]
        if isinstance(entry, bytes):
            return entry.replace(_WORD_START, b" ")
        return b"".join(
            bytes((self._bytes[letter],)) if letter in self._bytes else letter.encode()
            for letter in entry
        )


def _byte_letters() -> dict[int, str]:
    """GPT-2's letters for bytes: printable ones stand for themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters.update({byte: chr(256 + number) for number, byte in enumerate(others)})
    return letters


class TextStream:
    """The text of one answer.

    Args:
        pieces: the bytes of each token.
        stop: texts that end the answer; they and what follows are not part of it.
    """

    def __init__(self, pieces: Pieces, stop: list[str]) -> None:
        self._pieces = pieces
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped: str | None = None  # the stop text that came

    @property
    def holds(self) -> bool:
        """Whether text waits that may turn out to be the beginning of a stop text."""
        return bool(self._held)

    def add(self, token: int) -> str:
        """Take a token.

        Returns:
            Text that can go out now; `stopped` says whether it was the last.
        """
        return self._release(self._decoder.decode(self._pieces[token]))

    def end(self) -> str:
        """Give out what was held back, at the end of an answer that no stop text ended.

        Half a character is not: nobody can read it.
        """
        text, self._held = self._held, ""
        return text

    def _release(self, text: str) -> str:
        if not self._stop:
            return text
        text = self._held + text
        found = [(place, stop) for stop in self._stop if (place := text.find(stop)) >= 0]
        if found:
            (place, self.stopped), self._held = min(found), ""
            return text[:place]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Measure the longest end of `text` that is a beginning of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
