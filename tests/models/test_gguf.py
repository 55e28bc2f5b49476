from __future__ import annotations

import os
import struct
import time
from pathlib import Path

import pytest

from tests.models.gguf_files import gguf_bytes, start, tensor, text, value, write_gguf
from vllm_obtain.models.gguf.header import GGUFError, GGUFHeader, check_part, read_header


def read(tmp_path: Path, content: bytes) -> GGUFHeader:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    return read_header(path)


def pair(key: str, type_id: int, raw: bytes) -> bytes:
    return text(key) + struct.pack("<I", type_id) + raw


def test_reads_what_the_file_says(tmp_path: Path) -> None:
    header = read_header(write_gguf(tmp_path / "x.gguf", tensors=3))
    assert header == GGUFHeader(
        architecture="llama",
        name="Tiny",
        kind="model",
        context_length=512,
        block_count=2,
        embedding_length=64,
        head_count=4,
        head_count_kv=2,
        key_length=16,
        value_length=16,
        file_type=0,
        quantisation="F32",
        tensor_count=3,
        has_chat_template=True,
        vocab_size=3,
    )


def test_only_the_architecture_is_needed(tmp_path: Path) -> None:
    content = start(0, 1) + text("general.architecture") + value("rwkv7")
    header = read(tmp_path, content)
    assert header.architecture == "rwkv7"
    assert header.kind == "model"
    assert not header.has_chat_template
    assert header.vocab_size is None
    assert header.kv_bytes_per_token() is None


def test_order_of_the_keys_does_not_matter(tmp_path: Path) -> None:
    content = start(0, 2) + text("qwen3.context_length") + value(99)
    content += text("general.architecture") + value("qwen3")
    assert read(tmp_path, content).context_length == 99


def test_version_2_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, gguf_bytes().replace(b"GGUF\x03", b"GGUF\x02", 1)).name == "Tiny"


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({}, 2 * 2 * (16 + 16) * 2),
        ({"llama.attention.head_count_kv": None}, 2 * 4 * (16 + 16) * 2),
        ({"llama.attention.head_count_kv": [2, 0]}, 2 * (16 + 16) * 2),
        ({"llama.attention.key_length": 8, "llama.attention.value_length": 4}, 2 * 2 * 12 * 2),
        ({"llama.attention.head_count": [0, 4]}, 2 * 2 * (16 + 16) * 2),
        ({"llama.block_count": None}, None),
        ({"llama.embedding_length": None}, None),
        ({"llama.attention.head_count": 0}, None),
    ],
)
def test_kv_bytes_per_token(
    tmp_path: Path, metadata: dict[str, object], expected: int | None
) -> None:
    header = read_header(write_gguf(tmp_path / "x.gguf", metadata))
    assert header.kv_bytes_per_token() == expected


def test_kv_bytes_per_token_of_a_quantised_cache(tmp_path: Path) -> None:
    assert read_header(write_gguf(tmp_path / "x.gguf")).kv_bytes_per_token(1.0625) == 136


def test_further_parts_need_no_architecture(tmp_path: Path) -> None:
    part = write_gguf(tmp_path / "x.gguf", {"general.architecture": None}, tensors=1)
    check_part(part)
    with pytest.raises(GGUFError, match=r"no general.architecture"):
        read_header(part)


def test_large_vocabulary_is_skipped_quickly(tmp_path: Path) -> None:
    tokens = [f"token{n}" for n in range(250_000)]
    path = write_gguf(tmp_path / "x.gguf", {"tokenizer.ggml.tokens": tokens})
    began = time.perf_counter()
    assert read_header(path).vocab_size == 250_000
    assert time.perf_counter() - began < 1  # some 20 ms on an idle machine


def test_strings_longer_than_a_block_are_skipped(tmp_path: Path) -> None:
    tokens = ["a" * 300_000, "b", "c" * 600_000, ""]
    path = write_gguf(tmp_path / "x.gguf", {"tokenizer.ggml.tokens": tokens}, tensors=1)
    assert read_header(path).vocab_size == 4


@pytest.mark.parametrize("size", [0, 3, 23, 24, 60, 400])
def test_truncated_header(tmp_path: Path, size: int) -> None:
    with pytest.raises(GGUFError, match=r"truncated|not a GGUF"):
        read(tmp_path, gguf_bytes(tensors=2)[:size])


def test_truncated_tensors(tmp_path: Path) -> None:
    with pytest.raises(GGUFError, match=r"truncated: it has \d+ of \d+ bytes"):
        read(tmp_path, gguf_bytes(tensors=2)[:-1])


def test_quantised_tensors_are_measured_in_blocks(tmp_path: Path) -> None:
    begin = start(1, 1) + text("general.architecture") + value("llama")
    content = begin + tensor("w", [64, 2], 3, 0)
    content += bytes(-len(content) % 32)
    assert read(tmp_path, content + bytes(4 * 20)).tensor_count == 1
    with pytest.raises(GGUFError, match="truncated"):
        read(tmp_path, content + bytes(4 * 20 - 1))
    with pytest.raises(GGUFError, match="rows"):
        read(tmp_path, begin + tensor("w", [33], 3, 0) + bytes(100))


HUGE = 2**64 - 1
ARRAY_OF = struct.Struct("<IQ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (start(0, 0, magic=b"GGML"), "not a GGUF"),
        (start(0, 0, version=1), "version 1"),
        (start(0, 0, version=4), "version 4"),
        (start(0, 0, version=3 << 24), "big-endian"),
        (start(HUGE, 0), "declares"),
        (start(0, HUGE), "declares"),
        (start(100_000, 0) + bytes(99), "truncated"),
        (start(0, 1) + struct.pack("<Q", HUGE) + bytes(99), "string of"),
        (start(0, 1) + pair("a", 8, struct.pack("<Q", HUGE)) + bytes(99), "truncated"),
        (start(0, 1) + pair("a", 13, bytes(99)), "unknown type 13"),
        (start(0, 1) + pair("a", 9, ARRAY_OF.pack(9, 1) + bytes(99)), "array inside"),
        (start(0, 1) + pair("a", 9, ARRAY_OF.pack(77, 1) + bytes(99)), "unknown type 77"),
        (start(0, 1) + pair("a", 9, ARRAY_OF.pack(4, HUGE) + bytes(99)), "truncated"),
        (start(0, 1) + pair("a", 9, ARRAY_OF.pack(8, HUGE) + bytes(99)), "truncated"),
        (start(0, 1) + pair("a", 9, ARRAY_OF.pack(8, 2) + b"\xff" * 99), "truncated"),
        (start(0, 2) + pair("a", 0, b"\0") * 2, "twice"),
        (start(1, 0) + text("t") + struct.pack("<I", 5) + bytes(99), "5 dimensions"),
        (start(1, 0) + struct.pack("<Q", HUGE) + bytes(99), "name of"),
        (start(1, 0) + tensor("t", [HUGE] * 4, 0, 0), "truncated"),
        (start(1, 0) + tensor("t", [1], 0, HUGE), "truncated"),
    ],
)
def test_hostile_files(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(GGUFError, match=message):
        read(tmp_path, content)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.architecture": 7}, "not a string"),
        ({"general.architecture": ""}, "no general.architecture"),
        ({"general.alignment": 3}, "general.alignment of 3"),
        ({"llama.context_length": "long"}, "not an integer"),
        ({"llama.context_length": 2**33}, "impossible llama.context_length"),
        ({"llama.context_length": -1}, "impossible llama.context_length"),
        ({"llama.context_length": [1, 2]}, "not a single number"),
        ({"llama.attention.head_count_kv": [1] * 5000}, "5000 elements"),
        ({"tokenizer.ggml.tokens": "abc"}, "not an array"),
        ({"general.name": "n" * 70_000}, "70000 bytes"),
    ],
)
def test_values_that_make_no_sense(
    tmp_path: Path, metadata: dict[str, object], message: str
) -> None:
    with pytest.raises(GGUFError, match=message):
        read_header(write_gguf(tmp_path / "x.gguf", metadata))


def test_gigabytes_of_empty_strings_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(start(0, 1) + pair("a", 9, ARRAY_OF.pack(8, 10**9)))
    os.truncate(path, 2**34)  # a hole: takes no space
    with pytest.raises(GGUFError, match="more than 67108864 bytes"):
        read_header(path)
    path.write_bytes(start(0, 1) + pair("a", 9, ARRAY_OF.pack(8, 4 * 10**6)))
    os.truncate(path, 2**34)
    with pytest.raises(GGUFError, match="more than 2000000 strings"):
        read_header(path)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    for path in (tmp_path, tmp_path / "missing.gguf", tmp_path / "pipe.gguf"):
        with pytest.raises(GGUFError, match="can't be read"):
            read_header(path)
