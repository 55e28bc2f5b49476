"""Request and response bodies of /v1/embeddings and /v1/rerank.

Embeddings have OpenAI's format, reranking has that of Jina and Cohere as implemented by vLLM.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from vllm_obtain.errors import InvalidRequest
from vllm_obtain.protocol.parsing import decode
from vllm_obtain.protocol.requests import Positive, Token

# The most texts per request, as in OpenAI's API.
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
        """The texts or lists of tokens, as a list.

        Raises:
            InvalidRequest: there are none or too many, one is empty, or tokens and texts are mixed.
        """
        value = self.input
        if isinstance(value, list) and value and all(isinstance(item, int) for item in value):
            return [[token for token in value if isinstance(token, int)]]
        inputs = value if isinstance(value, list) else [value]
        if not inputs or len(inputs) > MAX_INPUTS:
            raise InvalidRequest(
                f"Invalid 'input': it has {len(inputs)} entries. Send 1 to {MAX_INPUTS} per "
                "request.",
                param="input",
            )
        return [_checked(item, number) for number, item in enumerate(inputs)]


class DocumentText(Struct, forbid_unknown_fields=True):
    """A document given as an object."""

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
        """The texts of the documents.

        Raises:
            InvalidRequest: there are too many, or one is empty.
        """
        if len(self.documents) >= MAX_INPUTS:
            raise InvalidRequest(
                f"Invalid 'documents': it has {len(self.documents)} entries. Send at most "
                f"{MAX_INPUTS - 1} per request.",
                param="documents",
            )
        texts = [item if isinstance(item, str) else item.text for item in self.documents]
        for number, text in enumerate(texts):
            if not text:
                where = f"documents[{number}]"
                raise InvalidRequest(
                    f"Invalid '{where}': it is empty. Remove it, or send some text.", param=where
                )
        return texts


class VectorUsage(Struct):
    """Token counts of a request that generates none."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingBody(Struct):
    """One embedding: numbers, or their bytes in base64."""

    index: int
    embedding: list[float] | str
    object: str = "embedding"


class EmbeddingsBody(Struct):
    """The response body of /v1/embeddings."""

    data: list[EmbeddingBody]
    model: str
    usage: VectorUsage
    object: str = "list"


class RankedBody(Struct):
    """One document and its relevance to the query."""

    index: int
    relevance_score: float
    document: DocumentText | UnsetType = UNSET


class RerankBody(Struct):
    """The response body of /v1/rerank, the most relevant document first."""

    id: str
    model: str
    results: list[RankedBody]
    usage: VectorUsage


_embedding = msgspec.json.Decoder(EmbeddingRequest)
_rerank = msgspec.json.Decoder(RerankRequest)


def parse_embedding(body: bytes, ignored: list[str] | None = None) -> EmbeddingRequest:
    """Parse the body of POST /v1/embeddings.

    Raises:
        InvalidRequest: not JSON, a wrong type, a value out of range, or an unknown field.
    """
    return decode(body, _embedding, ignored)


def parse_rerank(body: bytes, ignored: list[str] | None = None) -> RerankRequest:
    """Parse the body of POST /v1/rerank; raises as `parse_embedding` does."""
    return decode(body, _rerank, ignored)


def _checked(item: str | int | list[int], number: int) -> str | list[int]:
    where = f"input[{number}]"
    if isinstance(item, int):
        raise InvalidRequest(
            f"Invalid '{where}': tokens and texts are mixed. Send texts, one list of tokens, or a "
            "list of such lists.",
            param=where,
        )
    if not item:
        raise InvalidRequest(
            f"Invalid '{where}': it is empty. Remove it, or send some text.", param=where
        )
    return item
