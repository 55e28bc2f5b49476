r"""The pre-tokenizers of byte-level BPE, by their names in GGUF files.

Source: `llm_tokenizer_bpe` in llama.cpp's src/llama-vocab.cpp. The expressions are applied in
order. Those of Llama 3 and Qwen2 are the original ones, with `(?i:...)` expanded.
"""

from __future__ import annotations

from typing import Final

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_SHORT = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_DIGIT_THEN_GPT2 = (r"\p{N}", _GPT2)
_LLAMA3 = (rf"{_SHORT}|\p{{N}}{{1,3}}|{_REST}",)
_QWEN2 = (rf"{_SHORT}|\p{{N}}|{_REST}",)

PATTERNS: Final[dict[str, tuple[str, ...]]] = {
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
    "gpt-2": (_GPT2,),
    "mpt": (_GPT2,),
    "olmo": (_GPT2,),
    "smollm": _DIGIT_THEN_GPT2,
    "starcoder": _DIGIT_THEN_GPT2,
    "refact": _DIGIT_THEN_GPT2,
    "command-r": _DIGIT_THEN_GPT2,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "falcon3": _LLAMA3,
    "pixtral": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "megrez": _QWEN2,
}

# A word in the vocabulary becomes one token, even if its merges give a different result.
WHOLE_WORDS: Final = frozenset({"llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral"})
# The BOS token is added by default.
WITH_BOS: Final = WHOLE_WORDS
