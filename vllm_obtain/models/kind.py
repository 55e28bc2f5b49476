"""Detects from its files whether a model is a chat model or an embedding model."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal

Kind = Literal["chat", "embedding"]

# Pooling types: the values of `<architecture>.pooling_type` in GGUF.
# Source: `llama_pooling_type` in llama.cpp's include/llama.h.
MEAN, CLS, LAST, RANK = 1, 2, 3, 4

# GGUF architectures of encoders.
_GGUF_ENCODERS: Final = frozenset(
    "bert nomic-bert nomic-bert-moe jina-bert-v2 jina-bert-v3 modern-bert neo-bert eurobert "
    "gemma-embedding t5encoder".split()
)
# Encoders by their class in transformers or the `model_type` in config.json.
_TRANSFORMERS_ENCODERS: Final = frozenset(
    "BertModel BertForMaskedLM RobertaModel RobertaForMaskedLM XLMRobertaModel XLMRobertaXLModel "
    "DistilBertModel MPNetModel MPNetForMaskedLM ModernBertModel NomicBertModel GteModel NewModel "
    "JinaBertModel AlbertModel ElectraModel T5EncoderModel bert roberta xlm-roberta distilbert "
    "mpnet modernbert nomic_bert".split()
)
# Written by sentence-transformers for embedding models, also those based on language models.
MODULES: Final = "modules.json"


def of_gguf(architecture: str, pooling: int | None) -> Kind:
    """Detect the kind of a GGUF model.

    Args:
        architecture: `general.architecture`.
        pooling: the pooling type, or None if the file has none.
    """
    return "embedding" if architecture in _GGUF_ENCODERS or pooling in (MEAN, CLS, LAST) else "chat"


def of_folder(architecture: str | None, names: Collection[str]) -> Kind:
    """Detect the kind of a safetensors model.

    Args:
        architecture: the class in transformers, or the `model_type`.
        names: the names of the files in the folder.
    """
    return "embedding" if architecture in _TRANSFORMERS_ENCODERS or MODULES in names else "chat"
