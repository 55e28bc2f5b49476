"""Reads the configuration of a BERT folder and checks whether llama.cpp supports it.

Source: `BertModel` in llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vllm_obtain.models import kind as model_kind
from vllm_obtain.models.convert.errors import ConversionError
from vllm_obtain.models.model import Model
from vllm_obtain.models.safe_open import read_limited

_CLASSES: Final = ("BertModel", "BertForMaskedLM")
_POOLINGS: Final = {
    "pooling_mode_mean_tokens": model_kind.MEAN,
    "pooling_mode_cls_token": model_kind.CLS,
    "pooling_mode_lasttoken": model_kind.LAST,
}
# Modules of sentence-transformers that every engine implements.
_KNOWN_MODULES: Final = ("Transformer", "Pooling", "Normalize")
_MAX_FILE: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Encoder:
    """The configuration of a BERT model.

    Args:
        folder: the model's folder.
        layers: number of layers.
        hidden: hidden size.
        inner: size of the feed-forward network.
        heads: number of attention heads.
        positions: maximum length in tokens.
        types: number of segment types.
        epsilon: epsilon of the layer norms.
        pooling: the pooling, as a constant of `model_kind`.
    """

    folder: Path
    layers: int
    hidden: int
    inner: int
    heads: int
    positions: int
    types: int
    epsilon: float
    pooling: int


def read_encoder(model: Model) -> Encoder:
    """Read the configuration of a model.

    Raises:
        ConversionError: the model is not a BERT, or a variant that llama.cpp does not support.
    """
    if model.format != "safetensors" or model.architecture not in _CLASSES:
        raise ConversionError(
            f"Only models of the class {_CLASSES[0]} can be converted to GGUF. Use another engine."
        )
    config = _object(model.path / "config.json")
    for name, known in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        if config.get(name, known) != known:
            raise ConversionError(
                f"{model.name} has {name} {config[name]}, but llama.cpp supports only {known}."
            )
    _check_modules(model.path)
    _check_tokenizer(model.path)
    return Encoder(
        folder=model.path,
        layers=_number(config, "num_hidden_layers"),
        hidden=_number(config, "hidden_size"),
        inner=_number(config, "intermediate_size"),
        heads=_number(config, "num_attention_heads"),
        positions=_number(config, "max_position_embeddings"),
        types=_number(config, "type_vocab_size"),
        epsilon=float(config.get("layer_norm_eps", 1e-12)),
        pooling=_pooling(model.path),
    )


def read_tokens(folder: Path) -> list[str]:
    """List the tokens by id.

    Raises:
        ConversionError: the vocabulary is missing or its ids have gaps.
    """
    model = _object(folder / "tokenizer.json").get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ConversionError(f"tokenizer.json of {folder.name} has no vocabulary.")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ConversionError(
            f"The token ids in tokenizer.json of {folder.name} are not consecutive."
        )
    return sorted(vocabulary, key=vocabulary.__getitem__)


def _check_tokenizer(folder: Path) -> None:
    """Require uncased WordPiece, the only tokenizer of BERT that llama.cpp supports."""
    content = _object(folder / "tokenizer.json")
    model, normalizer = content.get("model"), content.get("normalizer")
    kind = model.get("type", "WordPiece") if isinstance(model, dict) else None
    normalizer = normalizer if isinstance(normalizer, dict) else {}
    uncased = normalizer.get("lowercase") and normalizer.get("strip_accents") is not False
    if kind != "WordPiece" or not uncased:
        raise ConversionError(
            f"{folder.name} has no uncased WordPiece tokenizer, the only one that llama.cpp "
            "supports for BERT. Use another engine."
        )


def _check_modules(folder: Path) -> None:
    path = folder / model_kind.MODULES
    if not path.exists():
        return
    modules = _read(path)
    names = [str(m.get("type")) for m in modules if isinstance(m, dict)] if modules else []
    for name in names:
        if name.rpartition(".")[2] not in _KNOWN_MODULES:
            raise ConversionError(
                f"{folder.name} uses the module {name}, which GGUF does not support."
            )


def _pooling(folder: Path) -> int:
    path = folder / "1_Pooling" / "config.json"
    if not path.exists():
        return model_kind.MEAN
    modes = [name for name, value in _object(path).items() if value is True and "mode" in name]
    known = [_POOLINGS[name] for name in modes if name in _POOLINGS]
    if len(known) != 1 or len(modes) != 1:
        raise ConversionError(
            f"The pooling of {folder.name} is not supported: {', '.join(modes) or 'none'}."
        )
    return known[0]


def _number(config: dict[str, Any], name: str) -> int:
    value = config.get(name)
    if type(value) is not int or not 0 < value < 2**31:
        raise ConversionError(f"config.json has no valid {name}.")
    return value


def _object(path: Path) -> dict[str, Any]:
    content = _read(path)
    if not isinstance(content, dict):
        raise ConversionError(f"{path.name} is not a JSON object.")
    return content


def _read(path: Path) -> Any:
    try:
        return json.loads(read_limited(path, _MAX_FILE))
    except (OSError, ValueError, RecursionError) as error:
        raise ConversionError(f"Cannot read {path.name}: {error}.") from error
