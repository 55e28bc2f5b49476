"""A model's chat template: rendered, and asked what it knows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import meta

from vllm_obtain.chat.environment import Refused, environment
from vllm_obtain.errors import InvalidRequest

Messages = Sequence[dict[str, Any]]

# For models whose files have no template; llama.cpp takes the same.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Words that are easy to find again.
_PROBE, _THEN = "VOprobe text", "VOprobe more"
# What comes of a list of parts where only a text is expected.
_LISTED = re.compile(r"""['"]type['"]:""")
# What a request may not set: it has words of its own for these.
RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})


class TemplateError(InvalidRequest):
    """The template cannot be used, or refuses this conversation."""

    code = "chat_template_error"


class ChatTemplate:
    """A template.

    Args:
        source: in Jinja.
        bos: the text of the token that begins a prompt.
        eos: the text of the token that ends an answer.

    Raises:
        TemplateError: it is not valid Jinja.
    """

    def __init__(self, source: str, bos: str = "", eos: str = "") -> None:
        made = environment()
        try:
            self._template = made.from_string(source)
            self.variables = frozenset(meta.find_undeclared_variables(made.parse(source)))
        except (jinja2.TemplateError, RecursionError) as error:
            raise TemplateError(f"This model's chat template is broken: {error}.") from None
        self.source = source
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self._in_parts = False
        self._in_parts = not self._writes(_PROBE) and self._writes([_text(_PROBE)])

    def render(
        self,
        messages: Messages,
        tools: Sequence[dict[str, Any]] = (),
        begin_answer: bool = True,
        more: Mapping[str, Any] | None = None,
    ) -> str:
        """Write a conversation as a prompt.

        Args:
            messages: with a role and a content each.
            tools: those that the model may call, in OpenAI's form.
            begin_answer: whether the model speaks next.
            more: variables of this template's own.

        Raises:
            TemplateError: it refuses this conversation.
        """
        try:
            # As one argument: a client's variable may have the name of any parameter.
            return self._template.render(
                {
                    **(more or {}),
                    **self._tokens,
                    "messages": _parted(messages) if self._in_parts else messages,
                    "tools": list(tools) or None,
                    "add_generation_prompt": begin_answer,
                }
            )
        except Refused as error:
            message = f"This model's chat template refuses the conversation: {error}"
            raise TemplateError(message, param="messages") from None
        except Exception as error:
            # Templates are programs of the model's makers, and fail in any way.
            message = (
                "This model's chat template cannot write this conversation: "
                f"{type(error).__name__}: {error}."
            )
            raise TemplateError(message, param="messages") from None

    def placeholder(self) -> str | None:
        """Find out what the template writes for an image; None if it knows none."""
        texts = [_text(_PROBE), _text(_THEN)]
        try:
            without = self._written(texts)
            found = self._written([texts[0], {"type": "image"}, texts[1]])
        except TemplateError:
            return None
        if _PROBE not in without or _PROBE not in found or _LISTED.search(found):
            return None
        before = _alike(without, found)
        behind = _alike(without[before:][::-1], found[before:][::-1])
        return found[before : len(found) - behind].strip() or None

    def _writes(self, content: Any) -> bool:
        try:
            written = self._written(content)
            return _PROBE in written and not _LISTED.search(written)
        except TemplateError:
            return False

    def _written(self, content: Any) -> str:
        in_parts, self._in_parts = self._in_parts, False
        try:
            return self.render([{"role": "user", "content": content}])
        finally:
            self._in_parts = in_parts


def _alike(one: str, other: str) -> int:
    """How many characters two texts begin alike with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _parted(messages: Messages) -> Messages:
    """Write contents as lists, for templates of models that see which know nothing else."""
    return [{**message, "content": [_text(message["content"])]} for message in messages]
