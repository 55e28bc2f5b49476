"""Token by token what llama.cpp makes of the same file and text."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.models.convert.llama_cpp import LlamaCpp, llama_cpp
from tests.models.convert.models import WORDS, Small
from tests.service import ROOT
from vllm_obtain.download.bundled_model import EMBEDDED
from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.convert.gguf_source import open_source
from vllm_obtain.models.convert.tokenizer_config import tokenizer_config
from vllm_obtain.models.convert.tokenizer_json import tokenizer
from vllm_obtain.models.convert.vocabulary import Vocabulary, read_vocabulary

EMBEDDED_PATH = EMBEDDED.path(ROOT / "models")
NASTY = [
    "",
    "a",
    " ",
    "   ",
    "Hello, world!",
    " leading and trailing ",
    "two  spaces   three    four",
    "tabs\tand\t\ttabs",
    "line\nline\n\nline\n\n\n  indented\r\nwindows\r\n\r\n",
    "\n",
    "  \n  \n",
    "1234567890 12 345,678.90 3.14159 ½ ² Ⅷ ٣٤",
    "I'm you're WE'LL he'd It's o'clock 'S 'LL'",
    "don't stop—really… “quotes” ‘single’ «guillemets»",
    "naïve café Zürich Ångström e\u0301 n\u0303",
    "Привет, мир! Γειά σου Κόσμε שלום עולם مرحبا بالعالم",
    "你好，世界。这是一个测试。日本語のテキスト 한국어 텍스트",
    "emoji 😀👍🏽 👨\u200d👩\u200d👧\u200d👦 🇫🇷 flags",
    "zero\u200bwidth\u00a0nbsp\u3000ideographic\u2028separator\ufeffbom",
    "a\u0000b\u0001c\u007f",
    "def f(x):\n    return x ** 2  # comment\n\n\nclass A:\n\tpass\n",
    "https://example.com/path?q=1&r=%20#frag user@example.org C:\\dir\\file",
    "!!!??? ... ,,, ;;; $$$ +++ === <<>> ^^ ~~ || @@ ## %% && ** (( )) [[ ]] {{ }}",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|><|im_start|> <|im_end|> x<|endoftext|>y",
    "<|im_star|> <|im_end| > <|IM_END|> <repo_name>a<file_sep>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "CamelCaseWords snake_case_words kebab-case-words SHOUTING",
    "the the the The THE tHe",
    "x" * 3 + " " * 17 + "y" + "\t" * 5 + "\n" * 7 + "z",
    "\U0001f1e6\U00020000\U0010ffff",
    "มีภาษาไทยด้วย हिन्दी में भी বাংলা",
]


def vocabulary(path: Path) -> Vocabulary:
    with open_source(path) as source:
        return read_vocabulary(source)


def assert_same_tokens(ours: Tokenizer, theirs: LlamaCpp) -> None:
    for text in NASTY:
        made = ours.encode(text, add_special_tokens=False).ids
        assert made == theirs.tokens(text), repr(text)
        if text:
            special = ours.encode(text).ids
            assert special == theirs.tokens(text, add_special=True), repr(text)


@pytest.fixture(scope="module")
def embedded_vocabulary() -> Vocabulary:
    return vocabulary(EMBEDDED_PATH)


@pytest.fixture(scope="module")
def embedded_server() -> Iterator[LlamaCpp]:
    with llama_cpp(EMBEDDED_PATH) as server:
        yield server


def test_the_embedded_model_has_llama_cpps_tokens(
    embedded_vocabulary: Vocabulary, embedded_server: LlamaCpp
) -> None:
    assert_same_tokens(tokenizer(embedded_vocabulary), embedded_server)


def test_what_was_split_comes_back_as_it_was(embedded_vocabulary: Vocabulary) -> None:
    ours = tokenizer(embedded_vocabulary)
    for text in NASTY:
        ids = ours.encode(text, add_special_tokens=False).ids
        assert ours.decode(ids, skip_special_tokens=False) == text


def words_of(words: Vocabulary, **more: Any) -> dict[str, Any]:
    return {
        **WORDS,
        "tokenizer.ggml.tokens": words.tokens,
        "tokenizer.ggml.token_type": words.types,
        "tokenizer.ggml.merges": words.merges,
        "tokenizer.ggml.add_bos_token": None,
        **more,
    }


@pytest.mark.parametrize("pattern", ["llama-bpe", "qwen2", "gpt-2", "default"])
def test_each_pattern_splits_as_llama_cpp(
    pattern: str, embedded_vocabulary: Vocabulary, tmp_path: Path
) -> None:
    words = words_of(embedded_vocabulary, **{"tokenizer.ggml.pre": pattern})
    path = Small(words=words, hidden=32).write(tmp_path / "a.gguf")
    found = vocabulary(path)
    assert found.add_bos == (pattern == "llama-bpe")
    with llama_cpp(path) as server:
        assert_same_tokens(tokenizer(found), server)


def pieces() -> list[str]:
    """A SentencePiece-like vocabulary: the letters of a text and its frequent substrings."""
    sample = " ".join(NASTY[4:20]).replace("\0", "")
    text = "".join("▁" + word for word in sample.split())
    counts = Counter(
        text[at : at + n] for n in range(1, 6) for at in range(len(text)) if at + n <= len(text)
    )
    letters = {piece for piece in counts if len(piece) == 1}
    common = [piece for piece, count in counts.most_common(800) if len(piece) > 1 and count > 1]
    return ["▁", "▁▁", "▁▁▁▁", *common, *sorted(letters - {"▁"})]


def sentence_piece_words() -> dict[str, Any]:
    found = pieces()
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), *found, "<tool>"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(n) for n in range(len(found))] + [0.0],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(found) + [4],
    }


@pytest.mark.parametrize("prefix", [None, False])
def test_sentence_piece_splits_as_llama_cpp(prefix: bool | None, tmp_path: Path) -> None:
    words = {**sentence_piece_words(), "tokenizer.ggml.add_space_prefix": prefix}
    path = Small(words=words, hidden=32).write(tmp_path / "a.gguf")
    found = vocabulary(path)
    assert (found.bos, found.eos, found.unknown, found.add_bos) == (1, 2, 0, True)
    with llama_cpp(path) as server:
        ours = tokenizer(found)
        assert_same_tokens(ours, server)
        for text in ("a <tool> b", "<tool>", "x<s>y</s> z"):
            assert ours.encode(text).ids == server.tokens(text, add_special=True), text


def test_the_settings_of_the_tokenizer_come_from_the_file(embedded_vocabulary: Vocabulary) -> None:
    with open_source(EMBEDDED_PATH) as source:
        content: Any = json.loads(json.dumps(tokenizer_config(source, embedded_vocabulary)))
    special = [content[f"{name}_token"] for name in ("bos", "eos", "pad", "unk")]
    assert special == ["<|im_start|>", "<|im_end|>", "<|im_end|>", "<|endoftext|>"]
    assert content["add_bos_token"] is False
    assert content["model_max_length"] == 8192
    assert content["added_tokens_decoder"]["2"]["special"] is True
    assert len(content["added_tokens_decoder"]) == 17
    assert "You are a helpful AI assistant named SmolLM" in content["chat_template"]


def test_every_token_that_ends_an_answer_in_llama_cpp_does(embedded_vocabulary: Vocabulary) -> None:
    texts = [embedded_vocabulary.tokens[each] for each in embedded_vocabulary.endings]
    assert texts[0] == "<|im_end|>"
    assert set(texts) == {"<|im_end|>", "<|endoftext|>", "<reponame>"}


def test_user_defined_tokens_are_added_but_not_special(embedded_vocabulary: Vocabulary) -> None:
    types = [*embedded_vocabulary.types]
    types[4] = 4
    changed = dataclasses.replace(embedded_vocabulary, types=types)
    ours = tokenizer(changed)
    ids = ours.encode("a<reponame>b").ids
    assert 4 in ids and "<reponame>" in ours.decode(ids)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tokenizer.ggml.model": "bert"}, "type bert cannot be converted"),
        ({"tokenizer.ggml.pre": "chameleon"}, "pre-tokenizer chameleon cannot be converted"),
        ({"tokenizer.ggml.tokens": ["a", "a"]}, "no valid list of tokens"),
        ({"tokenizer.ggml.model": "llama"}, "no score for each token"),
    ],
)
def test_an_unsupported_tokenizer_is_rejected_with_the_reason(
    changes: dict[str, Any], why: str, tmp_path: Path
) -> None:
    path = Small(words={**WORDS, **changes}).write(tmp_path / "a.gguf")
    with pytest.raises(ConversionError, match=why):
        vocabulary(path)


def test_merges_of_unknown_tokens_are_an_error(tmp_path: Path) -> None:
    words = {**WORDS, "tokenizer.ggml.merges": ["nowhere known"]}
    found = vocabulary(Small(words=words).write(tmp_path / "a.gguf"))
    with pytest.raises(ConversionError, match="tokenizer cannot be built"):
        tokenizer(found)
