"""/tokenize and /detokenize, in vLLM's format."""

from __future__ import annotations

import asyncio
from typing import Any

from .errors import ErrorResponse
from .tokenizer import PromptTokenizer


class Tokens:
    """Handlers of /tokenize and /detokenize.

    Args:
        prompts: the tokenizer.
        context: context length in tokens.
    """

    def __init__(self, prompts: PromptTokenizer, context: int) -> None:
        self._prompts = prompts
        self._context = context

    async def tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the tokens of `prompt`.

        Raises:
            ErrorResponse: `prompt` is not a string.
        """
        text = body.get("prompt")
        if not isinstance(text, str):
            raise ErrorResponse("'prompt' must be a string.", param="prompt")
        special = body.get("add_special_tokens") is not False
        tokens = await asyncio.to_thread(self._prompts.tokens_of, text, special)
        names = bool(body.get("return_token_strs"))
        return {
            "count": len(tokens),
            "max_model_len": self._context,
            "tokens": tokens,
            "token_strs": [self._prompts.name(token) for token in tokens] if names else None,
        }

    async def detokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        """Return the text of `tokens`.

        Raises:
            ErrorResponse: `tokens` is not a list of token ids.
        """
        return {"prompt": await asyncio.to_thread(self._prompts.text_of, body.get("tokens"))}
