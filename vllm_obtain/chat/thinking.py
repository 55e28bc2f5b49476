"""How a model marks its reasoning, as far as its template tells."""

from __future__ import annotations

from dataclasses import dataclass

from vllm_obtain.chat.template import ChatTemplate

_MARKS = (("<think>", "</think>"), ("<thinking>", "</thinking>"), ("[THINK]", "[/THINK]"))


@dataclass(frozen=True, slots=True)
class Thinking:
    """The marks around a model's reasoning."""

    open: str
    close: str

    def begun(self, prompt: str) -> bool:
        """Whether a prompt ends within the reasoning, which so has no mark at its beginning."""
        return prompt.rstrip().endswith(self.open)

    def is_over(self, prompt: str) -> bool:
        """Whether a prompt ends with an empty reasoning: the model shall not reason."""
        return prompt.rstrip().endswith(self.close)


def thinking(template: ChatTemplate) -> Thinking | None:
    """Find the marks in a template; None if it has none."""
    return next((Thinking(*marks) for marks in _MARKS if marks[1] in template.source), None)
