"""From a body to the tokens of its prompt."""

from __future__ import annotations

import threading
from typing import Any

from .errors import Refusal
from .text import Pieces


class Prompts:
    """Tokenises prompts.

    Args:
        tokenizer: mlx-lm's wrapper.
        vocabulary: how many tokens the model knows.
    """

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._pieces = Pieces(tokenizer)
        # Tokenizers in Rust fail with "Already borrowed" when two threads use one.
        self._one_at_a_time = threading.Lock()

    def tokens_of(self, text: str, special: bool) -> list[int]:
        """Tokenise a text, with what the model puts around a prompt if `special`.

        Raises:
            Refusal: it cannot be encoded.
        """
        try:
            with self._one_at_a_time:
                return list(self._tokenizer.encode(text, add_special_tokens=special))
        except UnicodeEncodeError:
            raise Refusal("The prompt holds half of a surrogate pair.") from None

    def text_of(self, tokens: Any) -> str:
        """Spell tokens out, marks of the model's by their names.

        Raises:
            Refusal: they are no list of token ids.
        """
        checked = self._known(tokens, "tokens")
        with self._one_at_a_time:
            return str(
                self._tokenizer.decode(
                    checked, skip_special_tokens=False, clean_up_tokenization_spaces=False
                )
            )

    def name(self, token: int) -> str:
        """Spell one token out; what is no whole character shows as such."""
        with self._one_at_a_time:
            return self._pieces.name(token).decode(errors="replace")

    def completion(self, body: dict[str, Any]) -> list[int]:
        """Tokenise the prompt of a text completion, or take its tokens as they are.

        Raises:
            Refusal: it is malformed, or empty.
        """
        prompt = body.get("prompt")
        if isinstance(prompt, str):
            return self._encode(prompt, special=body.get("add_special_tokens") is not False)
        return self._not_empty(self._known(prompt, "prompt"))

    def _known(self, tokens: Any, param: str) -> list[int]:
        if not isinstance(tokens, list) or not all(type(token) is int for token in tokens):
            raise Refusal(f"'{param}' must be a list of token ids, if it is no text.", param=param)
        if any(not 0 <= token < self._vocabulary for token in tokens):
            raise Refusal(f"Token ids must be below {self._vocabulary}.", param=param)
        return tokens

    def _encode(self, text: str, special: bool) -> list[int]:
        return self._not_empty(self.tokens_of(text, special))

    def _not_empty(self, tokens: list[int]) -> list[int]:
        if tokens:
            return tokens
        if self._tokenizer.bos_token_id is None:
            raise Refusal("The prompt is empty.", param="prompt")
        return [self._tokenizer.bos_token_id]
