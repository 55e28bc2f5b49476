"""One-shot engine requests: embeddings, tokenization and detokenization.

The defaults have vLLM's format, which our MLX server shares. The gateway passes bodies as bytes:
only this module parses them.
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

from vllm_obtain.engines import hf_config
from vllm_obtain.errors import EngineFailed
from vllm_obtain.models import Model

T = TypeVar("T")
# One input of an embedding: a text or a list of token ids.
Input = str | list[int]


class Tokens(Struct, frozen=True):
    """The tokens of a text, with the text of each if requested."""

    ids: list[int]
    texts: list[str] | None = None


class Vectors(Struct, frozen=True):
    """The embeddings of texts, in order, and the total number of prompt tokens."""

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


class OneShotRequests:
    """The part of an adapter for requests without a stream."""

    embedding_path: ClassVar[str] = "/v1/embeddings"
    tokenize_path: ClassVar[str] = "/tokenize"
    detokenize_path: ClassVar[str] = "/detokenize"

    def embedding_body(self, inputs: Sequence[Input]) -> dict[str, Any]:
        """Build an embedding request; base64 is exact and a fifth as long as JSON numbers."""
        return {"input": inputs, "encoding_format": "base64"}

    def read_vectors(self, response: bytes) -> Vectors:
        """Parse the response to `embedding_body`.

        Raises:
            EngineFailed: the response is malformed.
        """
        parsed = read(response, _Vectors)
        rows = sorted(parsed.data, key=lambda vector: vector.index)
        embeddings = [_floats(vector.embedding) for vector in rows]
        return Vectors(embeddings, parsed.usage.prompt_tokens)

    def tokenize_body(self, text: str, special: bool, texts: bool) -> dict[str, Any]:
        """Build a tokenization request.

        Args:
            text: the text; special tokens in it are recognized.
            special: whether to add the special tokens that surround a prompt.
            texts: whether to return each token's text.
        """
        return {"prompt": text, "add_special_tokens": special, "return_token_strs": texts}

    def read_tokens(self, response: bytes) -> Tokens:
        """Parse the response to `tokenize_body`.

        Raises:
            EngineFailed: the response is malformed.
        """
        parsed = read(response, _Tokens)
        return Tokens(parsed.tokens, parsed.token_strs)

    def detokenize_body(self, tokens: list[int]) -> dict[str, Any]:
        """Build a detokenization request."""
        return {"tokens": tokens}

    def read_text(self, response: bytes) -> str:
        """Parse the response to `detokenize_body`.

        Raises:
            EngineFailed: the response is malformed.
        """
        return read(response, _Text).prompt


def vocabulary(model: Model) -> int | None:
    """Return the vocabulary size of a model in tokens, None if its files do not say."""
    if model.header is not None:
        return model.header.vocab_size
    return hf_config.read(model).vocabulary


def read(response: bytes, kind: type[T]) -> T:
    """Decode a response to a one-shot request.

    Raises:
        EngineFailed: the response does not match `kind`.
    """
    try:
        return msgspec.json.decode(response, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise EngineFailed("The engine sent a malformed response. Try again.") from None


def _floats(text: str) -> array[float]:
    try:
        values = array("f", base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise EngineFailed("The engine sent a malformed embedding. Try again.") from None
    if sys.byteorder == "big":
        values.byteswap()
    return values
