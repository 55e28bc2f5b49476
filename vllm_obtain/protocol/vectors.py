"""The bodies of /v1/embeddings and /v1/rerank, and their answers.

Shapes are OpenAI's for embeddings, and for ranking those of Jina and Cohere as vLLM has them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from vllm_obtain.errors import InvalidRequest
from vllm_obtain.protocol.parse import decode
from vllm_obtain.protocol.requests import Positive, Token

# Texts of one request: OpenAI's number.
MAX_INPUTS = 2048


class EmbeddingRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/embeddings."""

    input: str | list[str | Token | list[Token]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Positive | None = None
    user: str | None = None

    @property
    def inputs(self) -> list[str | list[int]]:
        """The texts or lists of tokens, however few were given.

        Raises:
            InvalidRequest: there are none or too many, one is empty, or tokens lie beside texts.
        """
        given = self.input
        if isinstance(given, list) and given and all(isinstance(each, int) for each in given):
            return [[each for each in given if isinstance(each, int)]]
        listed = given if isinstance(given, list) else [given]
        if not listed or len(listed) > MAX_INPUTS:
            raise InvalidRequest(
                f"Invalid 'input': it has {len(listed)} entries. Send 1 to {MAX_INPUTS} per "
                "request.",
                param="input",
            )
        return [_checked(each, number) for number, each in enumerate(listed)]


class DocumentText(Struct, forbid_unknown_fields=True):
    """A document as an object."""

    text: str


class RerankRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /v1/rerank."""

    query: Annotated[str, Meta(min_length=1)]
    documents: Annotated[list[str | DocumentText], Meta(min_length=1)]
    model: str | None = None
    top_n: Positive | None = None
    return_documents: bool = True
    user: str | None = None

    @property
    def texts(self) -> list[str]:
        """The documents' texts.

        Raises:
            InvalidRequest: there are too many, or one is empty.
        """
        if len(self.documents) >= MAX_INPUTS:
            raise InvalidRequest(
                f"Invalid 'documents': there are {len(self.documents)}. Send up to "
                f"{MAX_INPUTS - 1} per request.",
                param="documents",
            )
        texts = [each if isinstance(each, str) else each.text for each in self.documents]
        for number, text in enumerate(texts):
            if not text:
                where = f"documents[{number}]"
                raise InvalidRequest(f"Invalid '{where}': it is empty.", param=where)
        return texts


class VectorUsage(Struct):
    """Tokens of a request that generates none."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingBody(Struct):
    """One vector: numbers, or their bytes in base64."""

    index: int
    embedding: list[float] | str
    object: str = "embedding"


class EmbeddingsBody(Struct):
    """The answer of /v1/embeddings."""

    data: list[EmbeddingBody]
    model: str
    usage: VectorUsage
    object: str = "list"


class RankedBody(Struct):
    """One document and how near it is to the query."""

    index: int
    relevance_score: float
    document: DocumentText | UnsetType = UNSET


class RerankBody(Struct):
    """The answer of /v1/rerank, the best document first."""

    id: str
    model: str
    results: list[RankedBody]
    usage: VectorUsage


_embedding = msgspec.json.Decoder(EmbeddingRequest)
_rerank = msgspec.json.Decoder(RerankRequest)


def parse_embedding(body: bytes) -> EmbeddingRequest:
    """Read the body of POST /v1/embeddings.

    Raises:
        InvalidRequest: not JSON, a wrong type, a value out of range, or an unknown field.
    """
    return decode(body, _embedding)


def parse_rerank(body: bytes) -> RerankRequest:
    """Read the body of POST /v1/rerank; raises as `parse_embedding` does."""
    return decode(body, _rerank)


def _checked(given: str | int | list[int], number: int) -> str | list[int]:
    where = f"input[{number}]"
    if isinstance(given, int):
        raise InvalidRequest(
            f"Invalid '{where}': a token stands beside texts. Send texts, one list of tokens, or a "
            "list of such lists.",
            param=where,
        )
    if not given:
        raise InvalidRequest(
            f"Invalid '{where}': it is empty. Leave it out, or send some text.", param=where
        )
    return given
