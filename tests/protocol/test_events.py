"""What one choice went through, told for several."""

from __future__ import annotations

from vllm_obtain.protocol.events import Delta, Finish, Progress, Usage, copied


def test_events_are_told_for_each_choice_and_tokens_counted_for_all() -> None:
    events = [Progress(5, 5), Delta("a", {"content": []}), Finish("stop"), Usage(5, 3, 2)]
    assert copied(events, 2) == [
        Progress(5, 5),
        Delta("a", {"content": []}),
        Delta("a", {"content": []}, 1),
        Finish("stop"),
        Finish("stop", 1),
        Usage(5, 6, 2),
    ]
