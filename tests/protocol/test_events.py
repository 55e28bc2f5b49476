"""What one choice went through, told for several."""

from __future__ import annotations

from vllm_obtain.protocol.events import Finish, PromptProgress, TextDelta, Usage, replicate


def test_events_are_told_for_each_choice_and_tokens_counted_for_all() -> None:
    events = [PromptProgress(5, 5), TextDelta("a", {"content": []}), Finish("stop"), Usage(5, 3, 2)]
    assert replicate(events, 2) == [
        PromptProgress(5, 5),
        TextDelta("a", {"content": []}),
        TextDelta("a", {"content": []}, 1),
        Finish("stop"),
        Finish("stop", 1),
        Usage(5, 6, 2),
    ]
