"""The tokens of a text and the text of tokens, in vLLM's shapes."""

from __future__ import annotations

import asyncio
from typing import Any

from .errors import Refusal
from .prompt import Prompts


class Tokens:
    """Answers /tokenize and /detokenize.

    Args:
        prompts: has the tokenizer.
        context: tokens of one request.
    """

    def __init__(self, prompts: Prompts, context: int) -> None:
        self._prompts = prompts
        self._context = context

    async def tokenize(self, body: dict[str, Any]) -> dict[str, Any]:
        """Answer with the tokens of `prompt`.

        Raises:
            Refusal: it is no text.
        """
        text = body.get("prompt")
        if not isinstance(text, str):
            raise Refusal("'prompt' must be a text.", param="prompt")
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
        """Answer with the text of `tokens`.

        Raises:
            Refusal: they are no tokens.
        """
        return {"prompt": await asyncio.to_thread(self._prompts.text_of, body.get("tokens"))}
