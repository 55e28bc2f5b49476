"""Rotation, retention, full disks, and several processes."""

import contextlib
import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from tests.logs.helpers import begin_next_day, events, lines, start
from vllm_obtain.errors import StartError
from vllm_obtain.logs import setup
from vllm_obtain.logs.rotating_file import expired


@pytest.mark.parametrize("below", ["", "deep/er"])
def test_a_folder_that_cannot_be_written_is_a_start_error(folder, tmp_path, below):
    (tmp_path / "file").write_text("")
    start(folder)
    with pytest.raises(StartError) as caught:
        start(tmp_path / "file" / below)
    assert str(caught.value).startswith(f"LOG_DIR={tmp_path / 'file' / below} cannot be written (")
    assert "Set LOG_DIR to a folder you own, or ENABLE_LOG_FILE=false." in str(caught.value)
    setup.get_logger("vllm_obtain.x").info("the old handlers are still there")
    assert len(events(folder)) == 1


def test_one_file_that_cannot_be_written_is_a_start_error(folder):
    (folder / "errors.log").mkdir(parents=True)
    with pytest.raises(StartError, match="cannot be written"):
        start(folder)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_reported_once_and_breaks_nothing(folder, capsys):
    folder.mkdir()
    (folder / "app.log").symlink_to("/dev/full")
    (folder / "model_operations.log").symlink_to("/dev/full")
    start(folder)
    for number in range(50):
        setup.get_logger(setup.MODELS).info("lost", number=number)
    output = capsys.readouterr().err
    assert output.count("cannot write") == 1 and "No space left" in output
    assert output.count("\n") == 1
    setup.get_logger(setup.ACCESS).info("other files go on")
    assert events(folder, "api_requests.log") == ["other files go on"]
    (folder / "app.log").unlink()
    setup.get_logger("vllm_obtain.x").info("there is room again")
    assert "there is room again" in (folder / "app.log").read_text()


def test_an_incomplete_line_on_a_full_disk_does_not_damage_others(folder, monkeypatch, capsys):
    start(folder)
    logger = setup.get_logger("vllm_obtain.x")
    logger.info("one")
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:20]))
        logger.info("two")
    logger.info("three")
    whole = []
    for line in (folder / "app.log").read_text().splitlines():
        with contextlib.suppress(ValueError):
            whole.append(json.loads(line)["event"])
    assert whole == ["one", "three"]
    assert "No space left" in capsys.readouterr().err


def test_deleted_files_and_folders_are_created_again(folder, capsys):
    start(folder)
    logger = setup.get_logger("vllm_obtain.x")
    logger.info("one")
    (folder / "app.log").unlink()
    logger.info("two")
    assert events(folder) == ["two"]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    logger.info("three")
    assert events(folder) == ["three"]
    assert capsys.readouterr().err == ""


def test_files_are_deleted_after_the_retention_time(folder, monkeypatch):
    today = datetime.now(UTC).date()
    days = {n: f"app.log.{today - timedelta(days=n)}" for n in (1, 6, 7, 8, 400)}
    folder.mkdir()
    others = ["app.log.bak", "app.log.2020-99-99", "notes.log.2020-01-01"]
    for name in [*days.values(), f"{days[8]}.1", *others]:
        (folder / name).write_text("{}\n")
    start(folder, log_retention_days=7)
    kept = {days[1], days[6], days[7], *others}
    assert {p.name for p in folder.iterdir() if ".log." in p.name} == kept
    (folder / days[400]).write_text("{}\n")
    setup.get_logger("vllm_obtain.x").info("before")
    begin_next_day(monkeypatch)
    setup.get_logger("vllm_obtain.x").info("after")
    assert {p.name for p in folder.iterdir() if ".log." in p.name} == {*kept, f"app.log.{today}"}
    assert events(folder) == ["after"]


def test_an_empty_file_is_not_rotated(folder, monkeypatch):
    start(folder, log_retention_days=3650)
    begin_next_day(monkeypatch)
    setup.get_logger("vllm_obtain.x").error("first")
    assert not list(folder.glob("errors.log.*"))
    assert events(folder, "errors.log") == ["first"]


def test_expired():
    today = date(2026, 11, 22)
    names = ["app.log.2026-11-21", "app.log.2026-11-20", "app.log.2026-11-19"]
    others = ["app.log", "app.log.2026-13-40"]
    assert expired([*names, "app.log.2026-11-19.3", *others], today, 2) == [
        "app.log.2026-11-19",
        "app.log.2026-11-19.3",
    ]
    assert expired(others, today, 2) == []


@pytest.mark.parametrize("today", [date(2026, 12, 30), date(2038, 1, 19)])
def test_a_clock_that_jumps_ahead_deletes_no_recent_log(today):
    names = [f"app.log.2026-11-{day}" for day in range(10, 22)]
    assert expired(names, today, 7) == [f"app.log.2026-11-{day}" for day in range(10, 15)]


WRITER = """
import sys
import time
from vllm_obtain.logs import setup as log
from vllm_obtain.config.settings import Settings
folder, name = sys.argv[1:]
log.configure(Settings.load({"LOG_DIR": folder, "LOG_RETENTION_DAYS": "3650"}), name, False)
logger = log.get_logger(log.MODELS)
for number in range(500):
    if number == 100:
        print("waiting", flush=True)
        sys.stdin.readline()
        now = time.time
        time.time = lambda: now() + 86_400
    logger.info("line", number=number, text="x" * (number * 7 % 900))
"""


def test_processes_that_write_across_a_rotation_lose_nothing(folder):
    names, today = ["a", "b", "c", "d"], datetime.now(UTC).date()
    command = [sys.executable, "-c", WRITER, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(subprocess.Popen([*command, n], **pipes)) for n in names]
        assert [writer.stdout.readline() for writer in writers] == ["waiting\n"] * 4
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
        assert [writer.wait(60) for writer in writers] == [0] * 4
    (rotated,) = folder.glob("app.log.*")
    assert rotated.name == f"app.log.{today}"
    parts = [lines(folder, rotated.name), lines(folder)]
    assert len(parts[0]) == 400 and len(parts[1]) == 1600
    expected = {(name, number) for name in names for number in range(500)}
    assert {(line["process"], line["number"]) for line in parts[0] + parts[1]} == expected
    moved = f"model_operations.log.{today}"
    assert [len(lines(folder, n)) for n in (moved, "model_operations.log")] == [400, 1600]


def test_a_forked_worker_writes_whole_lines_too(folder):
    start(folder)
    logger = setup.get_logger("vllm_obtain.x")
    logger.info("before")
    pid = os.fork()
    if pid == 0:
        for _ in range(300):
            logger.info("child")
        os._exit(0)
    for _ in range(300):
        logger.info("parent")
    assert os.waitpid(pid, 0)[1] == 0
    got = {(line["event"], line["pid"]) for line in lines(folder)}
    assert got == {("before", os.getpid()), ("parent", os.getpid()), ("child", pid)}
    assert len(lines(folder)) == 601
