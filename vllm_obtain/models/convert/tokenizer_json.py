"""Builds tokenizer.json, which gives the same tokens as llama.cpp with the GGUF file."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.convert.pretokenizers import PATTERNS, WHOLE_WORDS
from vllm_obtain.models.convert.vocabulary import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's replacement for a space


def tokenizer(vocabulary: Vocabulary) -> Tokenizer:
    """Build the tokenizer.

    Raises:
        ConversionError: the tokens and merges are inconsistent.
    """
    try:
        result = (
            _sentence_piece(vocabulary) if vocabulary.kind == "llama" else _byte_level(vocabulary)
        )
    except Exception as error:  # the package raises bare Exception
        raise ConversionError(
            f"The model's tokenizer cannot be built: {error}. Use llama.cpp."
        ) from error
    result.add_tokens([token for _, token in added_tokens(vocabulary)])
    before = [vocabulary.bos] if vocabulary.add_bos and vocabulary.bos is not None else []
    after = [vocabulary.eos] if vocabulary.add_eos and vocabulary.eos is not None else []
    if before or after:
        result.post_processor = _post_processor(vocabulary, before, after)
    return result


def added_tokens(vocabulary: Vocabulary) -> list[tuple[int, AddedToken]]:
    """List the tokens that are matched before pre-tokenization, with their ids."""
    kinds = (UNKNOWN, CONTROL, USER_DEFINED)
    return [
        (index, AddedToken(token, special=kind != USER_DEFINED, normalized=False))
        for index, (token, kind) in enumerate(zip(vocabulary.tokens, vocabulary.types, strict=True))
        if kind in kinds
    ]


def _byte_level(vocabulary: Vocabulary) -> Tokenizer:
    result = Tokenizer(
        BPE(
            {token: index for index, token in enumerate(vocabulary.tokens)},
            [_pair(merge) for merge in vocabulary.merges],
            ignore_merges=vocabulary.pattern in WHOLE_WORDS,
        )
    )
    splits: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS[vocabulary.pattern]
    ]
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    result.decoder = decoders.ByteLevel()
    return result


def _pair(merge: str) -> tuple[str, str]:
    # The first character may be a space, so the search starts after it, as in llama.cpp.
    at = merge.index(" ", 1)
    return merge[:at], merge[at + 1 :]


def _sentence_piece(vocabulary: Vocabulary) -> Tokenizer:
    unknown = None if vocabulary.unknown is None else vocabulary.tokens[vocabulary.unknown]
    result = Tokenizer(
        BPE(
            {token: index for index, token in enumerate(vocabulary.tokens)},
            merges_from_scores(vocabulary.tokens, vocabulary.scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", _SPACE)]
    strip: list[decoders.Decoder] = []
    if vocabulary.space_prefix:
        steps.insert(0, normalizers.Prepend(_SPACE))
        strip = [decoders.Strip(" ", 1, 0)]
    result.normalizer = normalizers.Sequence(steps)
    result.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return result


def merges_from_scores(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """Derive merges from scores: all splits of the token with the best score first.

    Source: `SentencePieceExtractor` of transformers' convert_slow_tokenizer.py.
    """
    ids = {token: index for index, token in enumerate(tokens)}
    merges: list[tuple[float, int, int, str, str]] = []
    for token, score in zip(tokens, scores, strict=True):
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in ids and right in ids:
                merges.append((-score, ids[left], ids[right], left, right))
    return [(left, right) for *_, left, right in sorted(merges)]


def _post_processor(
    vocabulary: Vocabulary, before: list[int], after: list[int]
) -> TemplateProcessing:
    names = {vocabulary.tokens[token]: token for token in [*before, *after]}
    head = [vocabulary.tokens[token] for token in before]
    tail = [vocabulary.tokens[token] for token in after]
    return TemplateProcessing(
        single=[*head, "$A", *tail],
        pair=[*head, "$A", *tail, *head, "$B", *tail],
        special_tokens=list(names.items()),
    )
