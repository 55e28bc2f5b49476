"""Renders messages by a model's chat template. Runs in the sandbox: a template is a program."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import meta

from vllm_obtain.chat.jinja_env import TemplateRaised, environment
from vllm_obtain.errors import InvalidRequest

Messages = Sequence[dict[str, Any]]

# For models without a template; llama.cpp uses the same.
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Texts that are easy to find in the output.
_PROBE, _PROBE_2 = "VOprobe text", "VOprobe more"
# Output of a template that expects a string but gets a list of parts.
_LISTED = re.compile(r"""['"]type['"]:""")
# Variables that set the reasoning effort, in some templates.
EFFORT_VARIABLES = frozenset({"reasoning_effort", "enable_thinking", "thinking"})
# Variables that `chat_template_kwargs` may not set: requests have fields for them.
RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "bos_token", "eos_token"})


class TemplateError(InvalidRequest):
    """The template is broken, or rejects this chat."""

    code = "chat_template_error"


class ChatTemplate:
    """A chat template.

    Args:
        source: Jinja source.
        bos: text of the token that begins a prompt.
        eos: text of the token that ends a completion.
        in_parts: whether it supports contents as lists of parts only; None to find out.

    Raises:
        TemplateError: it is not valid Jinja.
    """

    def __init__(
        self, source: str, bos: str = "", eos: str = "", in_parts: bool | None = None
    ) -> None:
        jinja = environment()
        try:
            self._template = jinja.from_string(source)
            # A chain of dicts by default, which Jinja would join again for each prompt.
            self._template.globals = dict(self._template.globals)
        except (jinja2.TemplateError, RecursionError) as error:
            raise TemplateError(f"This model's chat template is broken: {error}.") from None
        self.source = source
        self._tokens = {"bos_token": bos, "eos_token": eos}
        self.in_parts = bool(in_parts)
        if in_parts is None:
            self.in_parts = not self._renders(_PROBE) and self._renders([_text(_PROBE)])

    def variables(self) -> set[str]:
        """Return the variables that the template reads."""
        return meta.find_undeclared_variables(environment().parse(self.source))

    def render(
        self,
        messages: Messages,
        tools: Sequence[dict[str, Any]] = (),
        add_generation_prompt: bool = True,
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """Render a chat as a prompt.

        Args:
            messages: messages with a role and a content each.
            tools: tools that the model may call, in OpenAI's format.
            add_generation_prompt: whether the prompt ends with the header of a completion.
            template_kwargs: additional variables of this template.

        Raises:
            TemplateError: the template rejects this chat.
        """
        try:
            # One dict, because a client's variable may have the name of any parameter.
            return self._template.render(
                {
                    **(template_kwargs or {}),
                    **self._tokens,
                    "messages": _as_parts(messages) if self.in_parts else messages,
                    "tools": list(tools) or None,
                    "add_generation_prompt": add_generation_prompt,
                }
            )
        except TemplateRaised as error:
            message = f"This model's chat template rejects the messages: {error}"
            raise TemplateError(message, param="messages") from None
        except MemoryError:
            raise
        except Exception as error:
            # Templates are programs that come with models; any exception is possible.
            message = (
                "This model's chat template failed on these messages: "
                f"{type(error).__name__}: {error}."
            )
            raise TemplateError(message, param="messages") from None

    def placeholder(self) -> str | None:
        """Return what the template writes for an image; None if it does not support images."""
        texts = [_text(_PROBE), _text(_PROBE_2)]
        try:
            without = self._render_content(texts)
            with_image = self._render_content([texts[0], {"type": "image"}, texts[1]])
        except TemplateError:
            return None
        if _PROBE not in without or _PROBE not in with_image or _LISTED.search(with_image):
            return None
        before = _common_prefix(without, with_image)
        behind = _common_prefix(without[before:][::-1], with_image[before:][::-1])
        return with_image[before : len(with_image) - behind].strip() or None

    def _renders(self, content: Any) -> bool:
        try:
            text = self._render_content(content)
            return _PROBE in text and not _LISTED.search(text)
        except TemplateError:
            return False

    def _render_content(self, content: Any) -> str:
        in_parts, self.in_parts = self.in_parts, False
        try:
            return self.render([{"role": "user", "content": content}])
        finally:
            self.in_parts = in_parts


def _common_prefix(one: str, other: str) -> int:
    """Return the length of the common prefix of two texts."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _as_parts(messages: Messages) -> Messages:
    """Convert contents to lists, for templates of vision models that support only lists."""
    return [{**message, "content": [_text(message["content"])]} for message in messages]
