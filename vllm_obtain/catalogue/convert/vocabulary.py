"""What a GGUF file says about its tokens, as llama.cpp understands it.

Source: `llama_vocab::impl::load` in llama.cpp's src/llama-vocab.cpp, for the defaults and for the
tokens that end an answer by their text alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vllm_obtain.catalogue.convert.errors import ConversionError
from vllm_obtain.catalogue.convert.patterns import PATTERNS, WITH_BOS
from vllm_obtain.catalogue.convert.source import Source

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
    """The tokens of a model.

    Args:
        kind: `gpt2` (byte-level BPE) or `llama` (SentencePiece).
        pattern: the name of the rule that splits a text into words, for `gpt2`.
        tokens: by id.
        types: by id: 1 normal, 2 unknown, 3 control, 4 defined by the user, 5 unused, 6 byte.
        scores: by id, for `llama`.
        merges: pairs with a space between, the first first, for `gpt2`.
        bos, eos, pad, unknown: ids, or None.
        endings: ids of all tokens that end an answer, `eos` first.
        add_bos, add_eos: what is put around a prompt.
        space_prefix: whether a text gets a space in front, for `llama`.
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


def check_vocabulary(source: Source) -> tuple[str, str]:
    """The kind and the pattern of a model's tokenizer; quick, it reads no token.

    Raises:
        ConversionError: it is of a kind that can't be converted.
    """
    kind = source.text("tokenizer.ggml.model") or "none"
    if kind == "llama":
        return kind, ""
    if kind != "gpt2":
        raise ConversionError(f"A tokenizer of the kind {kind} can't be converted; use llama.cpp.")
    pattern = source.text("tokenizer.ggml.pre") or "default"
    if pattern not in PATTERNS:
        raise ConversionError(f"The pre-tokenizer {pattern} can't be converted; use llama.cpp.")
    return kind, pattern


def read_vocabulary(source: Source) -> Vocabulary:
    """Read all tokens.

    Raises:
        ConversionError: there are none, or they contradict each other.
    """
    kind, pattern = check_vocabulary(source)
    given = source.strings("tokenizer.ggml.tokens")
    tokens = [token or f"[EMPTY_{index}]" for index, token in enumerate(given)]
    types = [int(each) for each in source.numbers("tokenizer.ggml.token_type")] or [1] * len(tokens)
    scores = source.numbers("tokenizer.ggml.scores")
    if not tokens or len(set(tokens)) != len(tokens) or len(types) != len(tokens):
        raise ConversionError(f"{source.path.name} has no usable list of tokens.")
    if kind == "llama" and len(scores) != len(tokens):
        raise ConversionError(f"{source.path.name} has no score for each token.")
    ids = {
        name: _special(source, name, kind, len(tokens))
        for name in ("bos", "eos", "padding", "unknown")
    }
    more = [_special(source, name, kind, len(tokens)) for name in ("eot", "eom")]
    ends = [ids["eos"], *more, *(n for n, token in enumerate(tokens) if token in _ENDINGS)]
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


def _special(source: Source, name: str, kind: str, count: int) -> int | None:
    default = _SPM_DEFAULTS.get(name, -1) if kind == "llama" else -1
    token = source.integer(f"tokenizer.ggml.{name}_token_id", default)
    return token if 0 <= token < count else None


def _flag(source: Source, name: str, default: bool) -> bool:
    return bool(source.integer(f"tokenizer.ggml.{name}", int(default)))
