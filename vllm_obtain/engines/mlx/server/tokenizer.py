"""Tokenizes prompts."""

from __future__ import annotations

import threading
from typing import Any

from .detokenizer import TokenPieces
from .errors import ErrorResponse


class PromptTokenizer:
    """Tokenizes prompts; safe to call from several threads.

    Args:
        tokenizer: mlx-lm's tokenizer wrapper.
        vocabulary: size of the model's vocabulary.
    """

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._pieces = TokenPieces(tokenizer)
        # Rust tokenizers fail with "Already borrowed" if two threads use them.
        self._lock = threading.Lock()

    def tokens_of(self, text: str, special: bool) -> list[int]:
        """Tokenize a text; `special` adds the model's special tokens, such as BOS.

        Raises:
            ErrorResponse: the text is not valid Unicode.
        """
        try:
            with self._lock:
                return list(self._tokenizer.encode(text, add_special_tokens=special))
        except UnicodeEncodeError:
            raise ErrorResponse(
                "The prompt contains an unpaired surrogate. Send valid Unicode."
            ) from None

    def text_of(self, tokens: Any) -> str:
        """Return the text of tokens, with special tokens by name.

        Raises:
            ErrorResponse: `tokens` is not a list of token ids.
        """
        checked = self._checked(tokens, "tokens")
        with self._lock:
            return str(
                self._tokenizer.decode(
                    checked, skip_special_tokens=False, clean_up_tokenization_spaces=False
                )
            )

    def name(self, token: int) -> str:
        """Return the text of one token; incomplete characters become U+FFFD."""
        with self._lock:
            return self._pieces.name(token).decode(errors="replace")

    def completion(self, body: dict[str, Any]) -> list[int]:
        """Return the tokens of a request's prompt, which is a text or a list of token ids.

        Raises:
            ErrorResponse: the prompt is malformed or empty.
        """
        prompt = body.get("prompt")
        if isinstance(prompt, str):
            return self._encode(prompt, special=body.get("add_special_tokens") is not False)
        return self._not_empty(self._checked(prompt, "prompt"))

    def _checked(self, tokens: Any, param: str) -> list[int]:
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise ErrorResponse(f"'{param}' must be a string or a list of token ids.", param=param)
        if any(not 0 <= token < self._vocabulary for token in tokens):
            raise ErrorResponse(f"Token ids must be below {self._vocabulary}.", param=param)
        return tokens

    def _encode(self, text: str, special: bool) -> list[int]:
        return self._not_empty(self.tokens_of(text, special))

    def _not_empty(self, tokens: list[int]) -> list[int]:
        if tokens:
            return tokens
        if self._tokenizer.bos_token_id is None:
            raise ErrorResponse("The prompt is empty. Send at least one token.", param="prompt")
        return [self._tokenizer.bos_token_id]
