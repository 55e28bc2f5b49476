"""Writes tiny safetensors folders."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

CONFIG = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 512}


def write_weights(path: Path, data: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"w": {"dtype": "F32", "shape": [data // 4], "data_offsets": [0, data]}}
    header = json.dumps({"__metadata__": {"format": "pt"}, **tensors}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(data))
    return path


def write_folder(folder: Path, shards: int = 1, config: Any = CONFIG) -> Path:
    names = ["model.safetensors"]
    if shards > 1:
        names = [f"model-{n:05}-of-{shards:05}.safetensors" for n in range(1, shards + 1)]
        index = {"metadata": {}, "weight_map": {f"w{n}": name for n, name in enumerate(names)}}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in names:
        write_weights(folder / name)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder
