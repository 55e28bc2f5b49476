"""llama-server's whole answers: its own shapes for tokens."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from vllm_obtain.engines.plain import Plain, Tokens, read


class _Piece(Struct):
    id: int
    piece: str | list[int]

    @property
    def text(self) -> str:
        """What it spells; a list holds the bytes of what is no whole character."""
        if isinstance(self.piece, str):
            return self.piece
        return bytes(self.piece).decode(errors="replace")


class _Tokens(Struct):
    tokens: list[int | _Piece]


class _Text(Struct):
    content: str


class LlamaCppPlain(Plain):
    """The part of llama.cpp's adapter for whole answers."""

    def tokenize_body(self, text: str, special: bool, texts: bool) -> dict[str, Any]:
        """Ask for the tokens of a text."""
        return {
            "content": text,
            "add_special": special,
            "parse_special": True,
            "with_pieces": texts,
        }

    def read_tokens(self, answer: bytes) -> Tokens:
        """Read them, with their texts if there are any."""
        tokens = read(answer, _Tokens).tokens
        pieces = [token for token in tokens if isinstance(token, _Piece)]
        if pieces:
            return Tokens([piece.id for piece in pieces], [piece.text for piece in pieces])
        return Tokens([token for token in tokens if isinstance(token, int)])

    def read_text(self, answer: bytes) -> str:
        """Read the text of tokens."""
        return read(answer, _Text).content
