"""What engines answer whole: vectors of texts, and the tokens of a text.

The defaults are vLLM's shapes, which our MLX server has too. Bodies are bytes here on both ways:
this is the only place that reads such answers.
"""

from __future__ import annotations

import base64
import binascii
import sys
from array import array
from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

import msgspec
from msgspec import Struct

from vllm_obtain.catalogue import Model
from vllm_obtain.engines import hf_config
from vllm_obtain.errors import EngineFailed

T = TypeVar("T")
# One input of an embedding: a text, or its tokens.
Input = str | list[int]


class Tokens(Struct, frozen=True):
    """The tokens of a text, each with the text it stands for if that was asked for."""

    ids: list[int]
    texts: list[str] | None = None


class Vectors(Struct, frozen=True):
    """The vectors of texts in their order, and how many tokens all of them had."""

    rows: list[array[float]]
    prompt_tokens: int


class _Vector(Struct):
    embedding: str
    index: int = 0


class _Usage(Struct):
    prompt_tokens: int = 0


class _Vectors(Struct):
    data: list[_Vector]
    usage: _Usage


class _Tokens(Struct):
    tokens: list[int]
    token_strs: list[str] | None = None


class _Text(Struct):
    prompt: str


class Plain:
    """The part of an adapter for whole answers."""

    embedding_path: ClassVar[str] = "/v1/embeddings"
    tokenize_path: ClassVar[str] = "/tokenize"
    detokenize_path: ClassVar[str] = "/detokenize"

    def embedding_body(self, inputs: Sequence[Input]) -> dict[str, Any]:
        """Ask for the vectors of inputs. As base64, which is exact and a fifth as long as JSON."""
        return {"input": inputs, "encoding_format": "base64"}

    def read_vectors(self, answer: bytes) -> Vectors:
        """Read the answer to `embedding_body`.

        Raises:
            EngineFailed: it cannot be read.
        """
        found = read(answer, _Vectors)
        rows = sorted(found.data, key=lambda each: each.index)
        return Vectors([_floats(each.embedding) for each in rows], found.usage.prompt_tokens)

    def tokenize_body(self, text: str, special: bool, texts: bool) -> dict[str, Any]:
        """Ask for the tokens of a text.

        Args:
            text: what to tokenise; marks of the model's in it are taken as such.
            special: whether the marks are added that the model puts around a prompt.
            texts: whether each token's text is wanted.
        """
        return {"prompt": text, "add_special_tokens": special, "return_token_strs": texts}

    def read_tokens(self, answer: bytes) -> Tokens:
        """Read the answer to `tokenize_body`.

        Raises:
            EngineFailed: it cannot be read.
        """
        found = read(answer, _Tokens)
        return Tokens(found.tokens, found.token_strs)

    def detokenize_body(self, tokens: list[int]) -> dict[str, Any]:
        """Ask for the text of tokens."""
        return {"tokens": tokens}

    def read_text(self, answer: bytes) -> str:
        """Read the answer to `detokenize_body`.

        Raises:
            EngineFailed: it cannot be read.
        """
        return read(answer, _Text).prompt


def vocabulary(model: Model) -> int | None:
    """How many tokens a model knows; None where its files don't say."""
    if model.header is not None:
        return model.header.vocab_size
    return hf_config.read(model).vocabulary


def read(answer: bytes, kind: type[T]) -> T:
    """Read a whole answer of an engine.

    Raises:
        EngineFailed: it is something else.
    """
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise EngineFailed("The engine's answer cannot be read. Try again.") from None


def _floats(text: str) -> array[float]:
    try:
        found = array("f", base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise EngineFailed("The engine's answer holds no vector. Try again.") from None
    if sys.byteorder == "big":
        found.byteswap()
    return found
