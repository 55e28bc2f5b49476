from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from vllm_obtain.errors import InsufficientStorage, ServiceError
from vllm_obtain.models.progress import Progress, Stage, line, read_line, run_task


@pytest.fixture
def sigterm() -> Iterator[None]:
    """Restores the handler that a task sets."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    "progress",
    [
        Progress("looking"),
        Progress("downloading", "a", "hf:o/a", 1, 2, 0.5, 2.0, "a.gguf"),
        Progress("weights", done=43, total=100),
        Progress("done", "a", path="/m/a", report=[{"name": "a"}]),
    ],
)
def test_progress_is_read_as_it_is_written(progress: Progress) -> None:
    assert read_line(line(progress)) == progress


@pytest.mark.parametrize("text", ["", "{}", "[1]", "x", '{"stage": "unknown"}', '{"stage": null}'])
def test_other_output_is_no_progress(text: str) -> None:
    assert read_line(text) is None


@pytest.mark.parametrize("stage", ["tokenizer", "weights", "saving"])
def test_version_0_1_reads_the_progress_of_a_conversion(stage: Stage) -> None:
    written = json.loads(line(Progress(stage, done=43, total=100)))
    assert written == {"done": 43, "total": 100, "stage": stage}


def test_the_error_of_a_task_is_restored(sigterm: None, capfd: pytest.CaptureFixture[str]) -> None:
    def task() -> Progress:
        raise InsufficientStorage("The disk is full.")

    assert run_task(task) == 1
    output = capfd.readouterr()
    assert output.err == "The disk is full.\n"
    last = read_line(output.out)
    assert last is not None and last.is_over
    error = last.failure()
    assert isinstance(error, ServiceError)
    assert (error.message, error.status) == ("The disk is full.", InsufficientStorage.status)


def test_a_task_ends_with_its_last_progress(
    sigterm: None, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run_task(lambda: Progress("done", "a")) == 0
    assert json.loads(capfd.readouterr().out) == {"stage": "done", "name": "a"}
