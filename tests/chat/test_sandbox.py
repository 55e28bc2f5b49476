"""Work of unknown cost has limits, takes turns, ends with its client, and leaves no verdict."""

from __future__ import annotations

import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psutil
import pytest

from tests.waiting import eventually
from vllm_obtain.chat import grammar, grammar_checker, sandbox
from vllm_obtain.chat.chat_template import ChatTemplate
from vllm_obtain.chat.sandbox import CALLER, LimitExceeded, Sandbox, Work
from vllm_obtain.errors import ClientDisconnected, Overloaded, RequestTimeout

LOOPS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
BOMBS = {
    LOOPS: "time",
    "{{ 10 ** (10 ** 8) }}": "time",
    "{{ 'x' * 10 ** 9 }}": "memory",
    "{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s + ns.s %}"
    "{% endfor %}": "memory",
    "{{ 'x' * 3 * 10 ** 7 }}": "output",
}
QUESTION = [{"role": "user", "content": "Hi"}]


class Cancel:
    """A client that may leave."""

    def __init__(self) -> None:
        self.is_cancelled = False
        self.cause = ClientDisconnected()


@pytest.fixture
def box() -> Iterator[Sandbox]:
    box = Sandbox()
    yield box
    for process in box._idle:
        process.end()


def render(box: Sandbox, template: str, caller: Work | None = None) -> Any:
    previous = CALLER.set(caller or Work())
    try:
        return box.run("render", (template, "", "", False, QUESTION, [], True, {}))
    finally:
        CALLER.reset(previous)


def children() -> set[int]:
    every = psutil.Process().children(recursive=True)
    return {each.pid for each in every if each.status() != psutil.STATUS_ZOMBIE}


@contextmanager
def threads(count: int) -> Iterator[Callable[..., Future[Any]]]:
    with ThreadPoolExecutor(count) as pool:
        yield pool.submit


@pytest.mark.parametrize(("template", "reason"), BOMBS.items(), ids=BOMBS.values())
def test_a_template_is_stopped_at_its_limits(box: Sandbox, template: str, reason: str) -> None:
    memory, began = psutil.Process().memory_info().rss, time.monotonic()
    with pytest.raises(LimitExceeded) as caught:
        render(box, template)
    assert caught.value.reason == reason
    assert time.monotonic() - began < 30
    assert psutil.Process().memory_info().rss - memory < 50_000_000
    assert render(box, "{{ messages[0].content }}") == "Hi"


def test_memory_is_watched_where_the_system_does_not_limit_it(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_SYSTEM_LIMITS_MEMORY", False)
    monkeypatch.setattr(sandbox.sandbox_worker, "memory_limit", lambda *_: 1)
    began = time.monotonic()
    with pytest.raises(LimitExceeded) as caught:
        render(box, LOOPS)
    assert caught.value.reason == "memory" and time.monotonic() - began < 1.5


def test_a_process_of_the_sandbox_knows_no_secrets(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEYS", "sk-secret")
    render(box, "")
    (pid,) = box.pids
    assert "API_KEYS" not in psutil.Process(pid).environ()


def test_a_stopped_process_is_replaced_and_leaves_no_verdict(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox, "WALL_SECONDS", 1.0)
    lark = grammar.of_choice([f"{time.time()}"])
    assert grammar_checker.problem(grammar.of_choice(["a"])) == ""
    stopped = sandbox._of_process(os.getpid()).pids
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
        process = psutil.Process(pid)
        eventually(lambda process=process: process.status() == psutil.STATUS_STOPPED)
    assert grammar_checker.problem(lark) == ""
    assert not set(stopped[-1:]) & children()


@pytest.mark.parametrize("reason", ["time", "memory", "stack"])
def test_a_grammar_that_exceeded_a_limit_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, reason: Any
) -> None:
    lark = grammar.of_choice([f"{time.time()}"])

    def exceed(*_: Any) -> Any:
        raise LimitExceeded(reason)

    with monkeypatch.context() as patch:
        patch.setattr(sandbox, "run", exceed)
        assert grammar_checker.problem(lark)
    assert grammar_checker.problem(lark) == ""


def test_where_no_process_responds_the_client_may_try_again(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "WALL_SECONDS", 0.0)
    with pytest.raises(Overloaded) as caught:
        render(box, LOOPS)
    assert (caught.value.code, caught.value.retry_after) == ("overloaded", 1)


def test_slow_work_of_one_caller_leaves_a_process_to_the_others(box: Sandbox) -> None:
    with threads(8) as submit:
        slow = [submit(render, box, LOOPS, Work("slow")) for _ in range(3)]
        eventually(lambda: box._busy["slow"] == 2)
        for _ in range(20):
            assert render(box, "ok", Work("other")) == "ok"
        assert not all(each.done() for each in slow)
        assert all(isinstance(each.exception(), LimitExceeded) for each in slow)


def test_callers_that_wait_take_turns(box: Sandbox) -> None:
    order: list[str] = []

    def work(owner: str) -> None:
        box._wait_for_turn(Work(owner))
        order.append(owner)
        box._end_turn(owner)

    for owner in "xyz":
        box._wait_for_turn(Work(owner))
    with threads(6) as submit:
        many = [submit(work, "many") for _ in range(5)]
        eventually(lambda: len(box._waiting.get("many", ())) == 5)
        one = submit(work, "one")
        eventually(lambda: "one" in box._waiting)
        box._end_turn("x")
        for each in [*many, one]:
            each.result(10)
    assert order == ["many", "one", "many", "many", "many", "many"]


def test_work_ends_with_its_client(box: Sandbox) -> None:
    cancel = Cancel()
    before = children()
    with threads(1) as submit:
        running = submit(render, box, LOOPS, Work("a", cancel=cancel))
        eventually(lambda: children() - before)
        cancel.is_cancelled = True
        assert isinstance(running.exception(5), ClientDisconnected)
    assert children() <= before and not box._busy


def test_work_that_waits_is_dropped_with_its_client(box: Sandbox) -> None:
    cancel = Cancel()
    with threads(4) as submit:
        busy = [submit(render, box, LOOPS, Work("a")) for _ in range(2)]
        eventually(lambda: box._busy["a"] == 2)
        waits = submit(render, box, "ok", Work("a", cancel=cancel))
        eventually(lambda: bool(box._waiting))
        cancel.is_cancelled = True
        assert isinstance(waits.exception(5), ClientDisconnected)
        late = Work("a", deadline=time.monotonic() + 0.2)
        assert isinstance(submit(render, box, "ok", late).exception(5), RequestTimeout)
        assert not any(box._waiting.values())
        assert all(isinstance(each.exception(), LimitExceeded) for each in busy)
    assert render(box, "ok", Work("a")) == "ok"


def test_many_may_render_at_once(box: Sandbox) -> None:
    start = threading.Barrier(16)

    def work(number: int) -> str:
        start.wait()
        return "".join(render(box, f"{number}", Work(str(number % 4))) for _ in range(20))

    with threads(16) as submit:
        results = [submit(work, number) for number in range(16)]
        assert [each.result(60) for each in results] == [f"{n}" * 20 for n in range(16)]
    assert not box._busy and not box._waiting
    assert len(box.pids) <= sandbox.PROCESSES


@pytest.mark.serial
def test_a_plain_chat_takes_no_millisecond_more_than_in_this_process(box: Sandbox) -> None:
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    messages = [{"role": "user", "content": "What is the sea like?"}] * 10
    template, added = ChatTemplate(source), []
    for _ in range(500):
        began = time.perf_counter()
        text = box.run("render", (source, "", "", False, messages, [], True, {}))
        middle = time.perf_counter()
        assert template.render(messages) == text
        added.append((middle - began) - (time.perf_counter() - middle))
    assert statistics.median(added) < 0.001


def test_a_large_chat_passes(box: Sandbox) -> None:
    text = "é" * 5_000_000
    messages = [{"role": "user", "content": text}]
    arguments = ("{{ messages[0].content }}", "", "", False, messages, [], True, {})
    assert box.run("render", arguments) == text
    assert box.pids == [], "its memory is given back"
