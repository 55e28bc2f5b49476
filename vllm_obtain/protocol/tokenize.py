"""Request and response bodies of /tokenize and /detokenize, in vLLM's format."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from vllm_obtain.errors import InvalidRequest
from vllm_obtain.protocol.messages import Message
from vllm_obtain.protocol.parsing import decode
from vllm_obtain.protocol.requests import ChatRequest, Token
from vllm_obtain.protocol.tools import Tool


class TokenizeRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /tokenize: a prompt, or the messages of a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: Annotated[list[Message], Meta(min_length=1)] | None = None
    tools: list[Tool] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool = False

    @property
    def chat(self) -> ChatRequest | None:
        """The chat to render and tokenize, or None if the request has a prompt.

        Raises:
            InvalidRequest: the request has both or neither.
        """
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequest("Send either 'prompt' or 'messages'.", param="prompt")
        if self.messages is None:
            return None
        return ChatRequest(
            model=self.model,
            messages=self.messages,
            tools=self.tools,
            add_generation_prompt=self.add_generation_prompt,
            continue_final_message=self.continue_final_message,
            chat_template_kwargs=self.chat_template_kwargs,
        )


class DetokenizeRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """The body of POST /detokenize."""

    tokens: list[Token]
    model: str | None = None


class TokensBody(Struct):
    """The response body of /tokenize."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class TextBody(Struct):
    """The response body of /detokenize."""

    prompt: str


_tokenize = msgspec.json.Decoder(TokenizeRequest)
_detokenize = msgspec.json.Decoder(DetokenizeRequest)


def parse_tokenize(body: bytes, ignored: list[str] | None = None) -> TokenizeRequest:
    """Parse the body of POST /tokenize.

    Raises:
        InvalidRequest: not JSON, a wrong type, or an unknown field.
    """
    return decode(body, _tokenize, ignored)


def parse_detokenize(body: bytes, ignored: list[str] | None = None) -> DetokenizeRequest:
    """Parse the body of POST /detokenize; raises as `parse_tokenize` does."""
    return decode(body, _detokenize, ignored)
