from __future__ import annotations

import os
import random
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

from tests.models.gguf_files import gguf_bytes
from vllm_obtain.models.gguf.header import GGUFError, read_header

ROUNDS = 3000
EXTREMES = (b"\xff" * 8, b"\xff" * 4, bytes(8), b"\x09\0\0\0", b"\x08\0\0\0", b"\0\0\0\x80" * 2)


def mutate(content: bytes, chance: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(changed))
        match chance.randrange(4):
            case 0:
                changed[at] = chance.randrange(256)
            case 1:
                extreme = chance.choice(EXTREMES)
                changed[at : at + len(extreme)] = extreme
            case 2:
                del changed[at : at + chance.randint(1, 16)]
            case _:
                changed[at:at] = chance.randbytes(chance.randint(1, 16))
        if not changed:
            return b""
    return bytes(changed[: chance.randint(0, len(changed))] if chance.random() < 0.3 else changed)


def test_damaged_files_only_ever_raise_gguf_error(tmp_path: Path) -> None:
    seed = int(os.environ.get("FUZZ_SEED", time.time_ns() % 2**32))
    print(f"FUZZ_SEED={seed}")
    chance = random.Random(seed)  # noqa: S311 - not a secret
    original = gguf_bytes(tensors=4)
    path = tmp_path / "x.gguf"
    slowest = 0.0
    tracemalloc.start()
    for _ in range(ROUNDS):
        path.write_bytes(mutate(original, chance))
        began = time.process_time()
        with suppress(GGUFError):
            read_header(path)
        slowest = max(slowest, time.process_time() - began)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert slowest < 1
    assert peak < 8 * 2**20


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    original = gguf_bytes(tensors=2)
    path = tmp_path / "x.gguf"
    for size in range(len(original)):
        path.write_bytes(original[:size])
        try:
            read_header(path)
        except GGUFError:
            continue
        raise AssertionError(f"{size} of {len(original)} bytes were accepted")
