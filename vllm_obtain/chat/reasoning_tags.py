"""The tags around a model's reasoning, as found in its chat template."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_obtain.chat.chat_template import ChatTemplate

_TAGS = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("[THINK]", "[/THINK]"))


@dataclass(frozen=True, slots=True)
class ReasoningTags:
    """The tags around a model's reasoning."""

    open: str
    close: str

    def begun(self, prompt: str) -> bool:
        """Whether a prompt ends with the opening tag, so that the completion has none."""
        return prompt.rstrip().endswith(self.open)

    def is_over(self, prompt: str) -> bool:
        """Whether a prompt ends with the closing tag: reasoning is switched off."""
        return prompt.rstrip().endswith(self.close)


def reasoning_tags(template: ChatTemplate) -> ReasoningTags | None:
    """Return the tags that a template contains, or None."""
    return next((ReasoningTags(*tags) for tags in _TAGS if tags[1] in template.source), None)
