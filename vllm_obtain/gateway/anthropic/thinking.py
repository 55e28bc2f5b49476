"""Reasoning settings of a request: effort, and which earlier reasoning stays in the prompt."""

from __future__ import annotations

from typing import Literal

from vllm_obtain.gateway.anthropic.content_blocks import (
    AssistantTurn,
    Effort,
    SystemTurn,
    ThinkingBlock,
    ToolResultBlock,
    Turn,
    UserTurn,
)
from vllm_obtain.gateway.anthropic.request_types import (
    ContextManagement,
    PromptFields,
    ThinkingDisabled,
    ThinkingEnabled,
    ThinkingTurns,
)

# Maximum `budget_tokens` for low and medium effort; above is high.
_LOW, _MEDIUM = 4096, 16384


def effort_of(request: PromptFields) -> Literal["none", "low", "medium", "high", "xhigh"] | None:
    """Return the OpenAI `reasoning_effort`; None for the model's default."""
    if isinstance(request.thinking, ThinkingDisabled):
        return "none"
    effort = _requested_effort(request)
    if effort is not None:
        return "xhigh" if effort == "max" else effort
    if isinstance(request.thinking, ThinkingEnabled):
        budget = request.thinking.budget_tokens
        return "low" if budget <= _LOW else "medium" if budget <= _MEDIUM else "high"
    return None


def ignored_effort_fields(request: PromptFields) -> tuple[str, ...]:
    """Return the effort fields that a model without adjustable reasoning ignores."""
    names = []
    if isinstance(request.thinking, ThinkingEnabled):
        names.append("thinking.budget_tokens")
    if _requested_effort(request) is not None:
        names.append("output_config.effort")
    return tuple(names)


def clear_old_reasoning(request: PromptFields) -> list[Turn]:
    """Remove the reasoning that `context_management` clears."""
    keep = _kept_turns(request.context_management)
    if keep is None:
        return request.messages
    turns: list[Turn] = []
    thinking_turns = 0  # assistant turns with reasoning, counted from the last
    counted = False
    for turn in reversed(request.messages):
        if isinstance(turn, UserTurn) and not _is_result(turn):
            counted = False
        if isinstance(turn, AssistantTurn) and _has_reasoning(turn):
            if not counted:
                thinking_turns, counted = thinking_turns + 1, True
            if thinking_turns > keep:
                turn = _without_reasoning(turn)
        turns.append(turn)
    return turns[::-1]


def _kept_turns(management: ContextManagement | None) -> int | None:
    """Return how many assistant turns keep their reasoning; None for all."""
    counts = [
        edit.keep.value
        for edit in (management.edits if management and management.edits else ())
        if isinstance(edit.keep, ThinkingTurns)
    ]
    return min(counts, default=None)


def _is_result(turn: UserTurn) -> bool:
    """Whether the turn has tool results, so the assistant's turn continues."""
    return not isinstance(turn.content, str) and any(
        isinstance(block, ToolResultBlock) for block in turn.content
    )


def _has_reasoning(turn: AssistantTurn) -> bool:
    return not isinstance(turn.content, str) and any(
        isinstance(block, ThinkingBlock) for block in turn.content
    )


def _without_reasoning(turn: AssistantTurn) -> AssistantTurn:
    assert not isinstance(turn.content, str)  # noqa: S101 - `_has_reasoning` is true
    return AssistantTurn([block for block in turn.content if not isinstance(block, ThinkingBlock)])


def _requested_effort(request: PromptFields) -> Effort | None:
    """Return the effort; the last system turn with an effort overrides the request."""
    for turn in reversed(request.messages):
        if isinstance(turn, SystemTurn) and turn.output_config and turn.output_config.effort:
            return turn.output_config.effort
    return request.output_config.effort if request.output_config else None
