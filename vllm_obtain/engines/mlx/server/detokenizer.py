"""Converts tokens to text: whole characters, up to the first stop sequence."""

from __future__ import annotations

import codecs
from typing import Any

_WORD_START = "\u2581".encode()


class TokenPieces:
    """The bytes of each token.

    mlx-lm's streaming detokenizers withhold text forever after bytes that are not UTF-8, and strip
    the leading space of a completion. Only their token tables are used here.

    Args:
        tokenizer: mlx-lm's tokenizer wrapper.
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
        """Whether a token is a special token."""
        return self._added.get(token) == b""

    def __getitem__(self, token: int) -> bytes:
        piece = self._known.get(token)
        if piece is None:
            piece = self._known[token] = self._look_up(token)
        return piece

    def name(self, token: int) -> bytes:
        """Return the bytes of a token, or the name of a special token."""
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
    """Return GPT-2's letters for bytes: printable bytes map to themselves."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters.update({byte: chr(256 + number) for number, byte in enumerate(others)})
    return letters


class Detokenizer:
    """The text of one completion.

    Args:
        pieces: the bytes of each token.
        stop: stop sequences; the completion ends before the first one.
    """

    def __init__(self, pieces: TokenPieces, stop: list[str]) -> None:
        self._pieces = pieces
        self._stop = stop
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._withheld = ""
        self.stopped: str | None = None  # the stop sequence that was generated

    @property
    def is_withholding(self) -> bool:
        """Whether text is withheld because it may be the start of a stop sequence."""
        return bool(self._withheld)

    def add(self, token: int) -> str:
        """Add a token.

        Returns:
            The text to send now; `stopped` is set if it was the last.
        """
        return self._release(self._decoder.decode(self._pieces[token]))

    def end(self) -> str:
        """Return the withheld text, at the end of a completion without a stop sequence.

        An incomplete character is dropped.
        """
        text, self._withheld = self._withheld, ""
        return text

    def _release(self, text: str) -> str:
        if not self._stop:
            return text
        text = self._withheld + text
        matches = [(position, stop) for stop in self._stop if (position := text.find(stop)) >= 0]
        if matches:
            (position, self.stopped), self._withheld = min(matches), ""
            return text[:position]
        keep = max(_overlap(text, stop) for stop in self._stop)
        self._withheld = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest suffix of `text` that is a prefix of `stop`."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
