"""What the server answers instead of a generation."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """A request that cannot be served as it stands; 400.

    Args:
        message: what is wrong and what to change.
        type: the kind of error, in the words of llama.cpp where it has some.
        param: the parameter at fault.
        code: a name for the cause.
        facts: more members for the error object.
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


def too_long(prompt_tokens: int, context: int) -> Refusal:
    """Refuse a prompt that leaves no room for an answer, as llama.cpp does."""
    return Refusal(
        f"The request has {prompt_tokens} tokens and the context holds {context}, the answer "
        "included; shorten the prompt.",
        type="exceed_context_size_error",
        n_prompt_tokens=prompt_tokens,
        n_ctx=context,
    )
