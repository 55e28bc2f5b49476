"""How a model writes a conversation: its chat template and the tokens around a text.

Read once per revision of a model's files, when somebody first talks to it.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_obtain.catalogue.convert.patterns import WITH_BOS
from vllm_obtain.catalogue.files import opened
from vllm_obtain.catalogue.gguf_cursor import Cursor, GGUFError
from vllm_obtain.catalogue.gguf_layout import Layout
from vllm_obtain.catalogue.model import Model

# The template among several with names that knows tools, and the usual one.
_TOOLS, _USUAL = "tool_use", "default"
_TOKENS = "tokenizer.ggml.tokens"
_CONTROL = 3  # of ggml's types of tokens
_MOST_CONTROL = 4096


@dataclass(frozen=True, slots=True)
class ChatWords:
    """What a model's files say about conversations.

    Args:
        template: a Jinja template, or None.
        bos: the text of the token that begins a prompt, empty if there is none.
        eos: the text of the token that ends an answer.
        adds_bos: whether a GGUF file has its engine put `bos` before every prompt.
        control: the texts of tokens that engines do not show in answers.
    """

    template: str | None = None
    bos: str = ""
    eos: str = ""
    adds_bos: bool = False
    control: frozenset[str] = frozenset()


def chat_words(model: Model) -> ChatWords:
    """Look them up; empty ones where the files say nothing or cannot be read."""
    return _read(model.path, model.format == "gguf", model.revision)


@functools.lru_cache(maxsize=256)
def _read(path: Path, is_gguf: bool, revision: str) -> ChatWords:  # noqa: ARG001 - a changed file is read again
    try:
        return _of_gguf(path) if is_gguf else _of_folder(path)
    except (OSError, ValueError, RecursionError):
        return ChatWords()


def _of_gguf(path: Path) -> ChatWords:
    with opened(path) as fd:
        layout = Layout(Cursor(fd))
        kind, pattern = layout.text("tokenizer.ggml.model"), layout.text("tokenizer.ggml.pre")
        adds = layout.value("tokenizer.ggml.add_bos_token")
        # llama.cpp's own rule (llama-vocab.cpp) for files that do not say.
        adds_bos = bool(adds) if adds is not None else kind == "llama" or pattern in WITH_BOS
        bos, eos = (_token(layout, name) for name in ("bos", "eos"))
        template = layout.value("tokenizer.chat_template")
        text = template if isinstance(template, str) and template.strip() else None
        return ChatWords(text, bos, eos, adds_bos and bool(bos), _control(layout))


def _token(layout: Layout, name: str) -> str:
    index = layout.number(f"tokenizer.ggml.{name}_token_id")
    if index is None:
        return ""
    try:
        return next(iter(layout.texts_at(_TOKENS, [index])), "")
    except GGUFError:
        return ""


def _control(layout: Layout) -> frozenset[str]:
    try:
        types = layout.value("tokenizer.ggml.token_type")
        if not isinstance(types, list):
            return frozenset()
        places = [index for index, kind in enumerate(types) if kind == _CONTROL]
        return frozenset(filter(None, layout.texts_at(_TOKENS, places[:_MOST_CONTROL])))
    except GGUFError:
        return frozenset()


def _of_folder(folder: Path) -> ChatWords:
    config = _json(folder / "tokenizer_config.json")
    file = folder / "chat_template.jinja"
    found: Any = file.read_text() if file.is_file() else config.get("chat_template")
    if found is None:
        found = _json(folder / "chat_template.json").get("chat_template")
    if isinstance(found, list):
        named = {str(one.get("name")): one.get("template") for one in found}
        found = named.get(_TOOLS) or named.get(_USUAL)
    text = found if isinstance(found, str) and found.strip() else None
    bos, eos = (_content(config.get(name)) for name in ("bos_token", "eos_token"))
    added = config.get("added_tokens_decoder")
    tokens = added.values() if isinstance(added, dict) else ()
    special = (one for one in tokens if isinstance(one, dict) and one.get("special"))
    control = frozenset(filter(None, map(_content, special)))
    return ChatWords(text, bos, eos, control=control)


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    content = json.loads(file.read_bytes())
    return content if isinstance(content, dict) else {}


def _content(token: Any) -> str:
    """A token is its text, or an object that holds it."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
