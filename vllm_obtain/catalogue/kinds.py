"""What a model is for, told by its files: to talk, or to turn texts into vectors."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal

Kind = Literal["chat", "embedding"]

# How one vector is made of a text's many: `<architecture>.pooling_type` of GGUF.
# Source: `llama_pooling_type` in llama.cpp's include/llama.h.
MEAN, CLS, LAST, RANK = 1, 2, 3, 4

# Architectures of GGUF files that hold an encoder, and no language model.
_GGUF: Final = frozenset(
    "bert nomic-bert nomic-bert-moe jina-bert-v2 jina-bert-v3 modern-bert neo-bert eurobert "
    "gemma-embedding t5encoder".split()
)
# Classes of transformers that do, by the names in config.json or the `model_type`.
_FOLDERS: Final = frozenset(
    "BertModel BertForMaskedLM RobertaModel RobertaForMaskedLM XLMRobertaModel XLMRobertaXLModel "
    "DistilBertModel MPNetModel MPNetForMaskedLM ModernBertModel NomicBertModel GteModel NewModel "
    "JinaBertModel AlbertModel ElectraModel T5EncoderModel bert roberta xlm-roberta distilbert "
    "mpnet modernbert nomic_bert".split()
)
# Written by sentence-transformers, for encoders and for language models that were made into one.
MODULES: Final = "modules.json"


def of_gguf(architecture: str, pooling: int | None) -> Kind:
    """Tell what a GGUF file is for.

    Args:
        architecture: its `general.architecture`.
        pooling: its pooling type, or None if it names none.
    """
    return "embedding" if architecture in _GGUF or pooling in (MEAN, CLS, LAST) else "chat"


def of_folder(architecture: str | None, names: Collection[str]) -> Kind:
    """Tell what a folder of safetensors is for.

    Args:
        architecture: its class in transformers, or its `model_type`.
        names: of its files.
    """
    return "embedding" if architecture in _FOLDERS or MODULES in names else "chat"
