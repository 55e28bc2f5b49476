"""What is known of how one model talks: worked out once from its template."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllm_obtain.catalogue import Model
from vllm_obtain.catalogue.chat_words import ChatWords, chat_words
from vllm_obtain.chat import prompted
from vllm_obtain.chat.call_format import CallFormat, call_format, takes_system, takes_tools
from vllm_obtain.chat.template import CHATML, ChatTemplate, TemplateError
from vllm_obtain.chat.thinking import Thinking, thinking


@dataclass(frozen=True)
class Speaker:
    """A model's way to talk.

    Args:
        template: writes its prompts.
        words: the tokens around a prompt.
        own_tools: whether the template knows tools in a form that we can read.
        calls: how it spells calls; ours where the template knows none.
        marks: around its reasoning, if it reasons.
        assumed: whether its files have no template, so that ChatML is taken.
        takes_system: whether the template takes a message of the system.
        placeholder: what the template writes for an image, None if it knows none.
    """

    template: ChatTemplate
    words: ChatWords
    own_tools: bool
    calls: CallFormat
    marks: Thinking | None
    assumed: bool
    takes_system: bool
    placeholder: str | None

    @property
    def takes_effort(self) -> bool:
        """Whether the model can be told how hard to think."""
        return bool({"reasoning_effort", "enable_thinking", "thinking"} & self.template.variables)

    def prompt(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] = (),
        begin_answer: bool = True,
        more: Mapping[str, Any] | None = None,
    ) -> str:
        """Write a conversation as a prompt; arguments and errors as `ChatTemplate.render`."""
        if not self.own_tools:
            messages, tools = prompted.described(messages, tools, self.takes_system), ()
        text = self.template.render(messages, tools, begin_answer, more)
        if self.words.adds_bos and not text.startswith(self.words.bos):
            return self.words.bos + text
        return text


def speaker(model: Model, file: Path | None = None) -> Speaker:
    """Find out how a model talks.

    Args:
        model: whose files tell.
        file: of a template that its owner wants instead; read once.

    Raises:
        TemplateError: its template is broken, or cannot be read.
    """
    return _speaker(chat_words(model), None if file is None else _read(file))


@functools.lru_cache(maxsize=64)
def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TemplateError(f"The chat template {file.name} cannot be read: {error}.") from None


def capabilities(model: Model, file: Path | None = None) -> dict[str, Any] | None:
    """Say what a model's chat template was found to know; None if it is broken."""
    try:
        found = speaker(model, file)
    except TemplateError:
        return None
    return {
        "chat_template": "assumed" if found.assumed else "set" if file else "own",
        "tools": "template" if found.own_tools else "prompt",
        "reasoning": found.marks is not None,
        "structured_output": True,
        "vision": model.sees,
    }


@functools.lru_cache(maxsize=64)
def _speaker(words: ChatWords, source: str | None) -> Speaker:
    found = source or words.template
    template = ChatTemplate(found or CHATML, words.bos, words.eos)
    own = call_format(template) if takes_tools(template) else None
    if own and any(token in own.marks for token in words.control):
        # What engines do not show cannot be read, and ends the hold of a grammar.
        own = None
    marks = thinking(template)
    if marks and words.control & {marks.open, marks.close}:
        marks = None
    return Speaker(
        template=template,
        words=words,
        own_tools=own is not None,
        calls=own or prompted.FORMAT,
        marks=marks,
        assumed=found is None,
        takes_system=takes_system(template),
        placeholder=template.placeholder(),
    )
