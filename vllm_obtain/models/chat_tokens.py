"""Reads the chat template and the special tokens of a model.

They are read on the first request and cached per revision of the model's files.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_obtain.models.convert.pretokenizers import WITH_BOS
from vllm_obtain.models.gguf.layout import GGUFMetadata
from vllm_obtain.models.gguf.reader import GGUFError, HeaderReader
from vllm_obtain.models.model import Format
from vllm_obtain.models.safe_open import opened

# Names of chat templates: the one for tool calls, and the default.
_TOOLS, _DEFAULT = "tool_use", "default"
_TOKENS = "tokenizer.ggml.tokens"
_CONTROL = 3  # LLAMA_TOKEN_TYPE_CONTROL
_MAX_CONTROL = 4096


@dataclass(frozen=True, slots=True)
class ChatTokens:
    """The chat template and special tokens of a model.

    Args:
        template: the Jinja chat template, or None.
        bos: the text of the beginning-of-sequence token, empty if there is none.
        eos: the text of the end-of-sequence token.
        adds_bos: whether the engine puts `bos` before every prompt (GGUF only).
        control: the texts of control tokens, which engines leave out of completions.
    """

    template: str | None = None
    bos: str = ""
    eos: str = ""
    adds_bos: bool = False
    control: frozenset[str] = frozenset()


@functools.lru_cache(maxsize=256)
def chat_tokens(path: Path, kind: Format, revision: str) -> ChatTokens:  # noqa: ARG001 - part of the cache key
    """Read the chat tokens of a model; empty if its files have none or cannot be read.

    Args:
        path: the model's file or folder.
        kind: the format of the model.
        revision: of the model.
    """
    try:
        return _of_gguf(path) if kind == "gguf" else _of_folder(path)
    except (OSError, ValueError, RecursionError):
        return ChatTokens()


def _of_gguf(path: Path) -> ChatTokens:
    with opened(path) as fd:
        layout = GGUFMetadata(HeaderReader(fd))
        kind, pattern = layout.text("tokenizer.ggml.model"), layout.text("tokenizer.ggml.pre")
        adds = layout.value("tokenizer.ggml.add_bos_token")
        # The default of llama.cpp (llama-vocab.cpp) for files without the key.
        adds_bos = bool(adds) if adds is not None else kind == "llama" or pattern in WITH_BOS
        bos, eos = (_token(layout, name) for name in ("bos", "eos"))
        template = layout.value("tokenizer.chat_template")
        text = template if isinstance(template, str) and template.strip() else None
        return ChatTokens(text, bos, eos, adds_bos and bool(bos), _control(layout))


def _token(layout: GGUFMetadata, name: str) -> str:
    index = layout.number(f"tokenizer.ggml.{name}_token_id")
    if index is None:
        return ""
    try:
        return next(iter(layout.texts_at(_TOKENS, [index])), "")
    except GGUFError:
        return ""


def _control(layout: GGUFMetadata) -> frozenset[str]:
    try:
        types = layout.value("tokenizer.ggml.token_type")
        if not isinstance(types, list):
            return frozenset()
        indices = [index for index, kind in enumerate(types) if kind == _CONTROL]
        return frozenset(filter(None, layout.texts_at(_TOKENS, indices[:_MAX_CONTROL])))
    except GGUFError:
        return frozenset()


def _of_folder(folder: Path) -> ChatTokens:
    config = _json(folder / "tokenizer_config.json")
    file = folder / "chat_template.jinja"
    template: Any = file.read_text() if file.is_file() else config.get("chat_template")
    if template is None:
        template = _json(folder / "chat_template.json").get("chat_template")
    if isinstance(template, list):
        by_name = {str(token.get("name")): token.get("template") for token in template}
        template = by_name.get(_TOOLS) or by_name.get(_DEFAULT)
    text = template if isinstance(template, str) and template.strip() else None
    bos, eos = (_content(config.get(name)) for name in ("bos_token", "eos_token"))
    added = config.get("added_tokens_decoder")
    tokens = added.values() if isinstance(added, dict) else ()
    special = (token for token in tokens if isinstance(token, dict) and token.get("special"))
    control = frozenset(filter(None, map(_content, special)))
    return ChatTokens(text, bos, eos, control=control)


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    content = json.loads(file.read_bytes())
    return content if isinstance(content, dict) else {}


def _content(token: Any) -> str:
    """The text of a token, which is a string or an object with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
