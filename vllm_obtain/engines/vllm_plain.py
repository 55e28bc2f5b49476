"""vLLM's whole answers: token names, which are what a tokenizer's file calls them."""

from __future__ import annotations

from vllm_obtain.engines.plain import Plain, Tokens

_WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"


class VllmPlain(Plain):
    """The part of vLLM's adapter for whole answers."""

    def read_tokens(self, answer: bytes) -> Tokens:
        """Read tokens, and turn their names into the texts that they stand for."""
        found = super().read_tokens(answer)
        if found.texts is None:
            return found
        return Tokens(found.ids, [_text(name) for name in found.texts])


def _text(name: str) -> str:
    if _WORD_START in name:
        return name.replace(_WORD_START, " ")
    # Byte-level tokenizers write each byte as a letter; other names are what they say.
    if name.isascii() or any(letter not in _BYTES for letter in name):
        return name
    return bytes(_BYTES[letter] for letter in name).decode(errors="replace")


def _byte_letters() -> dict[str, int]:
    """The letters of GPT-2's byte-level alphabet: printable bytes are themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(256 + number): byte for number, byte in enumerate(others)
    }


_BYTES = _byte_letters()
