"""Reads the vocabulary of a GGUF file with llama.cpp's rules.

Source of the defaults and of the EOG tokens: `llama_vocab::impl::load` in llama.cpp's
src/llama-vocab.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.convert.gguf_source import GGUFSource
from vllm_obtain.models.convert.pretokenizers import PATTERNS, WITH_BOS

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
_SPM_DEFAULTS: Final = {"bos": 1, "eos": 2, "unknown": 0}
_ENDINGS: Final = frozenset(
    "<|eot_id|> <|im_end|> <|end|> <end_of_turn> <|endoftext|> </s> <|eom_id|> <EOT> _<EOT> "
    "<|end_of_text|> <end_of_utterance> <｜end▁of▁sentence｜> <eos> <|return|> <|call|> "
    "<|fim_pad|> <fim-pad> <fim_pad> <|fim_repo|> <|repo_name|> <fim-repo> <REPO> <reponame> "
    "<|file_sep|>".split()
)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The vocabulary of a model.

    Args:
        kind: `gpt2` (byte-level BPE) or `llama` (SentencePiece).
        pattern: the name of the pre-tokenizer, for `gpt2`.
        tokens: by id.
        types: by id: 1 normal, 2 unknown, 3 control, 4 defined by the user, 5 unused, 6 byte.
        scores: by id, for `llama`.
        merges: pairs separated by a space, highest priority first, for `gpt2`.
        bos, eos, pad, unknown: ids, or None.
        endings: ids of all end-of-generation tokens, `eos` first.
        add_bos, add_eos: whether these tokens are added to a prompt.
        space_prefix: whether a space is prepended to a text, for `llama`.
    """

    kind: str
    pattern: str
    tokens: list[str]
    types: list[int]
    scores: list[float]
    merges: list[str]
    bos: int | None
    eos: int | None
    pad: int | None
    unknown: int | None
    endings: list[int]
    add_bos: bool
    add_eos: bool
    space_prefix: bool


def check_vocabulary(source: GGUFSource) -> tuple[str, str]:
    """Return kind and pattern of a model's tokenizer without reading the tokens.

    Raises:
        ConversionError: the tokenizer is not supported.
    """
    kind = source.text("tokenizer.ggml.model") or "none"
    if kind == "llama":
        return kind, ""
    if kind != "gpt2":
        raise ConversionError(f"The tokenizer type {kind} cannot be converted. Use llama.cpp.")
    pattern = source.text("tokenizer.ggml.pre") or "default"
    if pattern not in PATTERNS:
        raise ConversionError(f"The pre-tokenizer {pattern} cannot be converted. Use llama.cpp.")
    return kind, pattern


def read_vocabulary(source: GGUFSource) -> Vocabulary:
    """Read all tokens.

    Raises:
        ConversionError: the tokens are missing or inconsistent.
    """
    kind, pattern = check_vocabulary(source)
    stored = source.strings("tokenizer.ggml.tokens")
    tokens = [token or f"[EMPTY_{index}]" for index, token in enumerate(stored)]
    types = [int(each) for each in source.numbers("tokenizer.ggml.token_type")] or [1] * len(tokens)
    scores = source.numbers("tokenizer.ggml.scores")
    if not tokens or len(set(tokens)) != len(tokens) or len(types) != len(tokens):
        raise ConversionError(
            f"{source.path.name} has no valid list of tokens. Download the model again."
        )
    if kind == "llama" and len(scores) != len(tokens):
        raise ConversionError(
            f"{source.path.name} has no score for each token. Download the model again."
        )
    ids = {
        name: _special(source, name, kind, len(tokens))
        for name in ("bos", "eos", "padding", "unknown")
    }
    eog = [_special(source, name, kind, len(tokens)) for name in ("eot", "eom")]
    ends = [ids["eos"], *eog, *(n for n, token in enumerate(tokens) if token in _ENDINGS)]
    return Vocabulary(
        kind=kind,
        pattern=pattern,
        tokens=tokens,
        types=[CONTROL if token in _ENDINGS else t for token, t in zip(tokens, types, strict=True)],
        scores=scores,
        merges=source.strings("tokenizer.ggml.merges"),
        bos=ids["bos"],
        eos=ids["eos"],
        pad=ids["padding"],
        unknown=ids["unknown"],
        endings=list(dict.fromkeys(each for each in ends if each is not None)),
        add_bos=_flag(source, "add_bos_token", kind == "llama" or pattern in WITH_BOS),
        add_eos=_flag(source, "add_eos_token", False),
        space_prefix=_flag(source, "add_space_prefix", kind == "llama"),
    )


def _special(source: GGUFSource, name: str, kind: str, count: int) -> int | None:
    default = _SPM_DEFAULTS.get(name, -1) if kind == "llama" else -1
    token = source.integer(f"tokenizer.ggml.{name}_token_id", default)
    return token if 0 <= token < count else None


def _flag(source: GGUFSource, name: str, default: bool) -> bool:
    return bool(source.integer(f"tokenizer.ggml.{name}", int(default)))
