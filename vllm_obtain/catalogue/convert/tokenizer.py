"""tokenizer.json: the same tokens for the same text as llama.cpp makes of the GGUF file."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.processors import TemplateProcessing

from vllm_obtain.catalogue.convert.errors import ConversionError
from vllm_obtain.catalogue.convert.patterns import PATTERNS, WHOLE_WORDS
from vllm_obtain.catalogue.convert.vocabulary import CONTROL, UNKNOWN, USER_DEFINED, Vocabulary

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's sign for a space


def tokenizer(words: Vocabulary) -> Tokenizer:
    """Build the tokenizer.

    Raises:
        ConversionError: the tokens and merges contradict each other.
    """
    try:
        made = _sentence_piece(words) if words.kind == "llama" else _byte_level(words)
    except Exception as error:  # the package raises bare Exception
        raise ConversionError(f"The model's tokenizer can't be built: {error}.") from error
    made.add_tokens([token for _, token in added_tokens(words)])
    before = [words.bos] if words.add_bos and words.bos is not None else []
    after = [words.eos] if words.add_eos and words.eos is not None else []
    if before or after:
        made.post_processor = _around(words, before, after)
    return made


def added_tokens(words: Vocabulary) -> list[tuple[int, AddedToken]]:
    """The tokens that are found in a text before anything else, with their ids."""
    kinds = (UNKNOWN, CONTROL, USER_DEFINED)
    return [
        (index, AddedToken(token, special=kind != USER_DEFINED, normalized=False))
        for index, (token, kind) in enumerate(zip(words.tokens, words.types, strict=True))
        if kind in kinds
    ]


def _byte_level(words: Vocabulary) -> Tokenizer:
    made = Tokenizer(
        BPE(
            {token: index for index, token in enumerate(words.tokens)},
            [_pair(merge) for merge in words.merges],
            ignore_merges=words.pattern in WHOLE_WORDS,
        )
    )
    splits: list[pre_tokenizers.PreTokenizer] = [
        pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS[words.pattern]
    ]
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    made.decoder = decoders.ByteLevel()
    return made


def _pair(merge: str) -> tuple[str, str]:
    # The first sign may itself be a space, so the search begins behind it, as in llama.cpp.
    at = merge.index(" ", 1)
    return merge[:at], merge[at + 1 :]


def _sentence_piece(words: Vocabulary) -> Tokenizer:
    unknown = None if words.unknown is None else words.tokens[words.unknown]
    made = Tokenizer(
        BPE(
            {token: index for index, token in enumerate(words.tokens)},
            merges_of_scores(words.tokens, words.scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", _SPACE)]
    strip: list[decoders.Decoder] = []
    if words.space_prefix:
        steps.insert(0, normalizers.Prepend(_SPACE))
        strip = [decoders.Strip(" ", 1, 0)]
    made.normalizer = normalizers.Sequence(steps)
    made.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return made


def merges_of_scores(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    """The merges that follow from scores: the best token first, in each way to make it.

    Source: `SentencePieceExtractor` of transformers' convert_slow_tokenizer.py.
    """
    ids = {token: index for index, token in enumerate(tokens)}
    found: list[tuple[float, int, int, str, str]] = []
    for token, score in zip(tokens, scores, strict=True):
        for at in range(1, len(token)):
            left, right = token[:at], token[at:]
            if left in ids and right in ids:
                found.append((-score, ids[left], ids[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


def _around(words: Vocabulary, before: list[int], after: list[int]) -> TemplateProcessing:
    names = {words.tokens[token]: token for token in [*before, *after]}
    head = [words.tokens[token] for token in before]
    tail = [words.tokens[token] for token in after]
    return TemplateProcessing(
        single=[*head, "$A", *tail],
        pair=[*head, "$A", *tail, *head, "$B", *tail],
        special_tokens=list(names.items()),
    )
