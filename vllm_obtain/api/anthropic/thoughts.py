"""What a request says about thinking: how hard, and which thoughts of before are kept."""

from __future__ import annotations

from typing import Literal

from vllm_obtain.api.anthropic.blocks import (
    AssistantTurn,
    Effort,
    SystemTurn,
    ThinkingBlock,
    ToolResultBlock,
    Turn,
    UserTurn,
)
from vllm_obtain.api.anthropic.requests import (
    ContextManagement,
    PromptFields,
    ThinkingTurns,
    Thinks,
    ThinksNot,
)

# Up to how many tokens of thinking an effort stands for; more is "high".
_LOW, _MEDIUM = 4096, 16384


def effort_of(asked: PromptFields) -> Literal["none", "low", "medium", "high", "xhigh"] | None:
    """Say how hard to think, in OpenAI's words; None leaves it to the model."""
    if isinstance(asked.thinking, ThinksNot):
        return "none"
    effort = _wanted_effort(asked)
    if effort is not None:
        return "xhigh" if effort == "max" else effort
    if isinstance(asked.thinking, Thinks):
        budget = asked.thinking.budget_tokens
        return "low" if budget <= _LOW else "medium" if budget <= _MEDIUM else "high"
    return None


def unheard(asked: PromptFields) -> tuple[str, ...]:
    """Name what a model that does not think cannot be told."""
    names = []
    if isinstance(asked.thinking, Thinks):
        names.append("thinking.budget_tokens")
    if _wanted_effort(asked) is not None:
        names.append("output_config.effort")
    return tuple(names)


def without_old_thoughts(asked: PromptFields) -> list[Turn]:
    """Leave out the reasoning that `context_management` says to clear."""
    keep = _kept_turns(asked.context_management)
    if keep is None:
        return asked.messages
    turns: list[Turn] = []
    seen = 0  # turns of the model that thought, from the last one back
    counted = False
    for turn in reversed(asked.messages):
        if isinstance(turn, UserTurn) and not _is_result(turn):
            counted = False
        if isinstance(turn, AssistantTurn) and _thought(turn):
            if not counted:
                seen, counted = seen + 1, True
            if seen > keep:
                turn = _thoughtless(turn)
        turns.append(turn)
    return turns[::-1]


def _kept_turns(management: ContextManagement | None) -> int | None:
    """Say how many turns of the model keep their reasoning; None for all."""
    counts = [
        edit.keep.value
        for edit in (management.edits if management and management.edits else ())
        if isinstance(edit.keep, ThinkingTurns)
    ]
    return min(counts, default=None)


def _is_result(turn: UserTurn) -> bool:
    """Whether it goes on with the model's turn: it says what tools came to."""
    return not isinstance(turn.content, str) and any(
        isinstance(block, ToolResultBlock) for block in turn.content
    )


def _thought(turn: AssistantTurn) -> bool:
    return not isinstance(turn.content, str) and any(
        isinstance(block, ThinkingBlock) for block in turn.content
    )


def _thoughtless(turn: AssistantTurn) -> AssistantTurn:
    assert not isinstance(turn.content, str)  # noqa: S101 - it has thoughts, so it has blocks
    return AssistantTurn([block for block in turn.content if not isinstance(block, ThinkingBlock)])


def _wanted_effort(asked: PromptFields) -> Effort | None:
    """Find the last word on effort: a system message of this turn has it over the request."""
    for turn in reversed(asked.messages):
        if isinstance(turn, SystemTurn) and turn.output_config and turn.output_config.effort:
            return turn.output_config.effort
    return asked.output_config.effort if asked.output_config else None
