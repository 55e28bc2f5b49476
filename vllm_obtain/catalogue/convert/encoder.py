"""Whether a folder with a BERT can become a GGUF file, and what it says of itself. Quick to read.

Source: `BertModel` in llama.cpp's convert_hf_to_gguf.py, for what llama.cpp expects.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vllm_obtain.catalogue import kinds
from vllm_obtain.catalogue.convert.errors import ConversionError
from vllm_obtain.catalogue.files import read_limited
from vllm_obtain.catalogue.model import Model

_CLASSES: Final = ("BertModel", "BertForMaskedLM")
_POOLINGS: Final = {
    "pooling_mode_mean_tokens": kinds.MEAN,
    "pooling_mode_cls_token": kinds.CLS,
    "pooling_mode_lasttoken": kinds.LAST,
}
# sentence-transformers' modules that every engine does by itself.
_KNOWN_MODULES: Final = ("Transformer", "Pooling", "Normalize")
_MAX_FILE: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Encoder:
    """A BERT in a folder.

    Args:
        folder: where it is.
        layers: how many.
        hidden: width of a hidden state.
        inner: width between the two halves of a layer.
        heads: attention heads.
        positions: the longest text in tokens.
        types: kinds of segments.
        epsilon: of the layer norms.
        pooling: how a text's vectors become one; a number of `kinds`.
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
    """Read what a folder says.

    Raises:
        ConversionError: it is no BERT, or one that llama.cpp would understand differently.
    """
    if model.format != "safetensors" or model.architecture not in _CLASSES:
        raise ConversionError(f"Only folders with a {_CLASSES[0]} can be made into a GGUF file.")
    config = _object(model.path / "config.json")
    for name, known in (("hidden_act", "gelu"), ("position_embedding_type", "absolute")):
        if config.get(name, known) != known:
            raise ConversionError(f"{model.name} has the {name} {config[name]}, not {known}.")
    _check_modules(model.path)
    _check_words(model.path)
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


def words(folder: Path) -> list[str]:
    """List the tokens by id.

    Raises:
        ConversionError: there are none, or some numbers have none.
    """
    model = _object(folder / "tokenizer.json").get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ConversionError(f"{folder.name} has no list of tokens in its tokenizer.json.")
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ConversionError(f"{folder.name} has tokens without a number of their own.")
    return sorted(vocabulary, key=vocabulary.__getitem__)


def _check_words(folder: Path) -> None:
    """Accept the one tokenizer that llama.cpp has for BERT: WordPiece of small letters."""
    content = _object(folder / "tokenizer.json")
    model, rule = content.get("model"), content.get("normalizer")
    kind = model.get("type", "WordPiece") if isinstance(model, dict) else None
    rule = rule if isinstance(rule, dict) else {}
    if kind != "WordPiece" or not rule.get("lowercase") or rule.get("strip_accents") is False:
        raise ConversionError(
            f"{folder.name} has no WordPiece tokenizer of small letters, the only one of BERT that "
            "llama.cpp knows."
        )


def _check_modules(folder: Path) -> None:
    path = folder / kinds.MODULES
    if not path.exists():
        return
    modules = _read(path)
    names = [str(m.get("type")) for m in modules if isinstance(m, dict)] if modules else []
    for name in names:
        if name.rpartition(".")[2] not in _KNOWN_MODULES:
            raise ConversionError(f"{folder.name} has a {name} behind it, which GGUF cannot hold.")


def _pooling(folder: Path) -> int:
    path = folder / "1_Pooling" / "config.json"
    if not path.exists():
        return kinds.MEAN
    asked = [name for name, value in _object(path).items() if value is True and "mode" in name]
    known = [_POOLINGS[name] for name in asked if name in _POOLINGS]
    if len(known) != 1 or len(asked) != 1:
        raise ConversionError(f"{folder.name} pools by {', '.join(asked) or 'nothing'}.")
    return known[0]


def _number(config: dict[str, Any], name: str) -> int:
    value = config.get(name)
    if type(value) is not int or not 0 < value < 2**31:
        raise ConversionError(f"config.json has no usable {name}.")
    return value


def _object(path: Path) -> dict[str, Any]:
    content = _read(path)
    if not isinstance(content, dict):
        raise ConversionError(f"{path.name} is not an object.")
    return content


def _read(path: Path) -> Any:
    try:
        return json.loads(read_limited(path, _MAX_FILE))
    except (OSError, ValueError, RecursionError) as error:
        raise ConversionError(f"{path.name} can't be read: {error}.") from error
