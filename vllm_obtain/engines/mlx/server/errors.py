"""Error responses of the server."""

from __future__ import annotations

from typing import Any


class ErrorResponse(Exception):
    """A request that cannot be served; HTTP status 400.

    Args:
        message: what is wrong and what to change.
        type: type of the error, as in llama.cpp where it has one.
        param: the invalid parameter.
        code: code of the cause.
        facts: additional members of the error object.
    """

    def __init__(
        self,
        message: str,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | int = 400,
        **facts: int,
    ) -> None:
        super().__init__(message)
        self.body: dict[str, Any] = {
            "message": message,
            "type": type,
            "param": param,
            "code": code,
            **facts,
        }


def too_long(prompt_tokens: int, context: int) -> ErrorResponse:
    """Return the error for a prompt that leaves no space for a token, in llama.cpp's format."""
    return ErrorResponse(
        f"The prompt has {prompt_tokens} tokens, but prompt and completion together are limited "
        f"to {context}. Shorten the prompt.",
        type="exceed_context_size_error",
        n_prompt_tokens=prompt_tokens,
        n_ctx=context,
    )
