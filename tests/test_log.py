import contextlib
import fcntl
import json
import logging
import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from vllm_obtain import log
from vllm_obtain._log_file import expired
from vllm_obtain._log_lines import JsonLines, encode
from vllm_obtain.errors import StartError
from vllm_obtain.settings import Settings

FILES = ["app.log", "api_requests.log", "model_operations.log", "system_metrics.log", "errors.log"]
PAST = datetime(2001, 9, 9, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path):
    yield tmp_path / "logs"
    log.clear()
    log.close()


def settings(folder, **more):
    values = {"LOG_DIR": str(folder), **{name.upper(): str(value) for name, value in more.items()}}
    return Settings.load(values)


def start(folder, process="gateway", console=False, **more):
    log.configure(settings(folder, **more), process, console=console)


def lines(folder, name="app.log"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def events(folder, name="app.log"):
    return [line["event"] for line in lines(folder, name)]


def make_rotation_due(folder, name="app", now=PAST):
    """Let the processes believe that the day ended at `now`: the next line rotates."""
    with (folder / f".__{name}.lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(int(now.timestamp())))
        file.truncate()


def test_a_line_says_when_what_and_who(folder):
    start(folder)
    before = datetime.now(UTC)
    log.get_logger("vllm_obtain.api").info("worker started", port=8001, pid=7)
    (line,) = lines(folder)
    assert list(line) == [
        "timestamp", "level", "event", "logger", "process", "pid", "port", "pid_",
    ]  # fmt: skip
    assert (line["level"], line["event"], line["port"]) == ("info", "worker started", 8001)
    assert (line["logger"], line["process"]) == ("vllm_obtain.api", "gateway")
    assert (line["pid"], line["pid_"]) == (os.getpid(), 7)
    assert line["timestamp"].endswith("Z") and len(line["timestamp"]) == 24
    moment = datetime.fromisoformat(line["timestamp"])
    assert before - timedelta(milliseconds=1) <= moment <= datetime.now(UTC)


def test_each_logger_reaches_its_files_and_no_other(folder):
    start(folder)
    for name in (log.ACCESS, log.MODELS, log.SYSTEM, "vllm_obtain.systematic", "vllm_obtain.x"):
        log.get_logger(name).info(name)
        log.get_logger(name).error(f"{name} failed")
    got = {file: [e for e in events(folder, file) if not e.endswith("failed")] for file in FILES}
    assert got == {
        "app.log": [log.MODELS, "vllm_obtain.systematic", "vllm_obtain.x"],
        "api_requests.log": [log.ACCESS],
        "model_operations.log": [log.MODELS],
        "system_metrics.log": [log.SYSTEM],
        "errors.log": [],
    }
    assert len(events(folder, "errors.log")) == 5


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"log_level": "DEBUG"}, ["debug", "info", "warning", "error", "critical"]),
        ({"log_level": "INFO"}, ["info", "warning", "error", "critical"]),
        ({"log_level": "WARNING"}, ["warning", "error", "critical"]),
        ({"log_level": "ERROR"}, ["error", "critical"]),
        ({"log_level": "ERROR", "debug": True}, ["debug", "info", "warning", "error", "critical"]),
    ],
)
def test_the_level_holds_for_app_log_and_the_terminal(folder, capsys, more, expected):
    start(folder, console=True, **more)
    logger = log.get_logger("vllm_obtain.levels")  # the same one in each round
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logger, level)(f"at {level}")
    assert [line["level"] for line in lines(folder)] == expected
    shown = capsys.readouterr().err.splitlines()
    assert [line.split("[")[1].split()[0].rstrip("]") for line in shown] == expected


def test_files_of_their_own_are_written_whatever_the_level(folder):
    start(folder, log_level="ERROR")
    for name in (log.ACCESS, log.MODELS, log.SYSTEM):
        log.get_logger(name).info("kept")
    assert events(folder, "api_requests.log") == ["kept"]
    assert events(folder, "model_operations.log") == ["kept"]
    assert events(folder, "system_metrics.log") == ["kept"]
    assert events(folder) == []


def test_access_lines_reach_the_terminal_only_at_debug(folder, capsys):
    start(folder, console=True)
    log.get_logger(log.ACCESS).info("GET /health")
    assert capsys.readouterr().err == ""
    start(folder, console=True, debug=True)
    log.get_logger(log.ACCESS).info("GET /health")
    assert "GET /health" in capsys.readouterr().err


def test_the_request_id_is_in_every_line_until_it_is_cleared(folder):
    start(folder)
    log.bind(request_id="r-1", model="m")
    for name in (log.ACCESS, log.MODELS, "vllm_obtain.x"):
        log.get_logger(name).error("during")
    logging.getLogger("asyncio").error("not ours")
    log.clear()
    log.get_logger("vllm_obtain.x").error("after")
    by_event = {}
    for line in lines(folder, "errors.log"):
        by_event.setdefault(line["event"], []).append(line.get("request_id"))
    assert by_event == {"during": ["r-1"] * 3, "not ours": [None], "after": [None]}


def test_third_party_loggers_flow_through(folder, capsys):
    gunicorn = logging.getLogger("gunicorn.error")
    gunicorn.propagate = False
    gunicorn.addHandler(logging.StreamHandler(sys.stderr))
    start(folder, console=True)
    gunicorn.info("Booting worker with pid: %d", 7)
    logging.getLogger("werkzeug").info("GET / 200")
    logging.getLogger("werkzeug").warning("odd")
    logging.getLogger("some.library").info("chatter")
    logging.getLogger("some.library").error("broken %s", "pipe")
    assert events(folder) == ["Booting worker with pid: 7", "odd", "broken pipe"]
    assert events(folder, "errors.log") == ["broken pipe"]
    assert capsys.readouterr().err.count("Booting worker") == 1


def fail(prompt):
    note = f"local {prompt}"
    raise ValueError("no such engine") if note else KeyError


def test_what_an_exception_says_is_left_out(folder, capsys):
    start(folder, console=True)
    try:
        try:
            int("MARKER")
        except ValueError as error:
            raise KeyError("MARKER") from error
    except KeyError:
        log.get_logger("vllm_obtain.x").exception("request failed")
    try:
        Path("/no/such/file").read_text()
    except OSError:
        log.get_logger("vllm_obtain.x").exception("file missing")
    first, second = (line["exception"] for line in lines(folder))
    assert first.splitlines()[-1] == "KeyError" and "\nValueError\n" in first
    assert second.endswith("No such file or directory: '/no/such/file'")
    shown = capsys.readouterr().err
    assert "KeyError" in shown and "MARKER" not in shown.replace('"MARKER"', "")


@pytest.mark.parametrize("private", [True, False])
def test_a_servers_complaint_does_not_repeat_the_request(folder, private):
    start(folder, log_prompts=not private)
    server, dev = logging.getLogger("gunicorn.error"), logging.getLogger("werkzeug")
    server.warning("Invalid request from ip=::1: Invalid HTTP Header: 'AUTHORIZATION MARKER'")
    server.error("Error handling request %s %s", "GET", "/MARKER")
    dev.error("::1 - - [now] code %d, message %s\n", 400, "Bad request syntax ('MARKER')")
    dev.error('Error on request:\n  File "a.py", line 3, in f\n    g(x)\nValueError: MARKER')
    said = events(folder)
    if private:
        said_short = [
            "Invalid request from ip=::1",
            "Error handling request",
            "::1 - - [now] code 400",
        ]
        said_short.append('Error on request:\n  File "a.py", line 3, in f')
        assert said == said_short
    else:
        assert all("MARKER" in line for line in said)


@pytest.mark.parametrize("how", ["exception", "exc_info", "stdlib"])
def test_a_traceback_has_frames_but_no_variables(folder, capsys, how):
    start(folder, console=True, log_prompts=True)
    try:
        fail("-".join(["MARKER", "7"]))
    except ValueError as error:
        if how == "exception":
            log.get_logger("vllm_obtain.x").exception("request failed")
        elif how == "exc_info":
            log.get_logger("vllm_obtain.x").error("request failed", exc_info=error)
        else:
            logging.getLogger("asyncio").exception("request failed")
    text = lines(folder)[0]["exception"]
    assert text.startswith("Traceback") and text.endswith("ValueError: no such engine")
    assert "in fail" in text
    assert text == lines(folder, "errors.log")[0]["exception"]
    shown = capsys.readouterr().err
    assert "ValueError: no such engine" in shown
    written = "".join(file.read_text() for file in folder.glob("*.log"))
    assert "MARKER-7" not in shown + written


def test_escape_codes_of_a_client_do_not_reach_the_terminal(folder, capsys):
    start(folder, console=True)
    log.get_logger("vllm_obtain.x").info("asked", model="\x1b[2Jm")
    logging.getLogger("gunicorn.error").warning("Invalid request: \x1b[2J\x9b")
    shown = capsys.readouterr().err
    assert "\x1b" not in shown and "\x9b" not in shown and "asked" in shown


def test_odd_values_still_make_whole_lines():
    class Odd:
        def __repr__(self):
            raise RuntimeError

    loop = []
    loop.append(loop)
    values = {"a": Path("/x"), "b": "\ud800", "c": loop, "d": Odd(), "e": {(1, 2): 3}, "f": 2**80}
    for key, value in values.items():
        assert json.loads(encode({"event": "odd", key: value}))["event"] == "odd"
    assert json.loads(encode({"path": Path("/x"), "nan": float("nan")})) == {
        "path": "/x",
        "nan": None,
    }


def test_a_library_whose_arguments_do_not_match_still_gets_its_line():
    record = logging.LogRecord("lib", logging.ERROR, "", 0, "%s of %s", ("one",), None)
    assert json.loads(JsonLines("gateway").format(record))["event"] == "%s of %s"


def test_without_log_files_nothing_is_written(folder):
    start(folder, enable_log_file=False)
    log.get_logger("vllm_obtain.x").error("gone")
    assert not folder.exists()


def test_configuring_again_replaces_the_handlers(folder, tmp_path):
    start(folder)
    old = list(logging.getLogger().handlers)
    start(tmp_path / "other", process="supervisor")
    log.get_logger("vllm_obtain.x").info("here")
    assert events(folder) == []
    assert [line["process"] for line in lines(tmp_path / "other")] == ["supervisor"]
    ours = [h for h in logging.getLogger().handlers if isinstance(h, log.LogFile)]
    assert len(ours) == len(FILES)
    assert not set(ours) & set(old)
    log.close()
    assert not [h for h in logging.getLogger().handlers if isinstance(h, log.LogFile)]


def test_a_logger_works_before_logging_is_set_up(capsys, caplog):
    log.close()
    log.get_logger("vllm_obtain.early").warning("too early", a=1)
    assert [record.getMessage() for record in caplog.records] == ["too early"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("below", ["", "deep/er"])
def test_a_folder_that_cannot_be_written_is_a_start_error(folder, tmp_path, below):
    (tmp_path / "file").write_text("")
    start(folder)
    with pytest.raises(StartError) as caught:
        start(tmp_path / "file" / below)
    assert str(caught.value).startswith(f"LOG_DIR={tmp_path / 'file' / below} cannot be written (")
    assert "Set LOG_DIR to a folder you own, or ENABLE_LOG_FILE=false." in str(caught.value)
    log.get_logger("vllm_obtain.x").info("the old handlers are still there")
    assert len(events(folder)) == 1


def test_one_file_that_cannot_be_written_is_a_start_error(folder):
    (folder / "errors.log").mkdir(parents=True)
    with pytest.raises(StartError, match="cannot be written"):
        start(folder)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_said_once_and_breaks_nothing(folder, capsys):
    folder.mkdir()
    (folder / "app.log").symlink_to("/dev/full")
    (folder / "model_operations.log").symlink_to("/dev/full")
    start(folder)
    for number in range(50):
        log.get_logger(log.MODELS).info("lost", number=number)
    shown = capsys.readouterr().err
    assert shown.count("cannot write") == 1 and "No space left" in shown
    assert shown.count("\n") == 1
    log.get_logger(log.ACCESS).info("other files go on")
    assert events(folder, "api_requests.log") == ["other files go on"]
    (folder / "app.log").unlink()
    log.get_logger("vllm_obtain.x").info("there is room again")
    assert "there is room again" in (folder / "app.log").read_text()


def test_a_line_cut_off_by_a_full_disk_spoils_no_other(folder, monkeypatch, capsys):
    start(folder)
    handlers = [h for h in logging.getLogger().handlers if isinstance(h, log.LogFile)]
    (file,) = [h for h in handlers if h.baseFilename.endswith("app.log")]
    logger = log.get_logger("vllm_obtain.x")
    logger.info("one")

    def cut_off(text):
        os.write(file.clh.stream.fileno(), text[:20].encode())
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(file.clh, "do_write", cut_off)
        logger.info("two")
    logger.info("three")
    whole = []
    for line in (folder / "app.log").read_text().splitlines():
        with contextlib.suppress(ValueError):
            whole.append(json.loads(line)["event"])
    assert whole == ["one", "three"]
    assert "No space left" in capsys.readouterr().err


def test_a_deleted_file_and_a_deleted_folder_come_back(folder, capsys):
    start(folder)
    logger = log.get_logger("vllm_obtain.x")
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


def test_old_days_are_deleted_and_kept_days_are_kept(folder):
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
    log.get_logger("vllm_obtain.x").info("before")
    make_rotation_due(folder)
    log.get_logger("vllm_obtain.x").info("after")
    # the day that is rotated away is of 2001 here, so it goes too
    assert {p.name for p in folder.iterdir() if ".log." in p.name} == kept
    assert events(folder) == ["after"]


def test_a_file_without_a_line_is_not_rotated(folder):
    start(folder, log_retention_days=3650)
    make_rotation_due(folder, "errors")
    log.get_logger("vllm_obtain.x").error("first")
    assert not list(folder.glob("errors.log.*"))
    assert events(folder, "errors.log") == ["first"]


def test_expired():
    today = date(2026, 11, 22)
    assert not expired("app.log.2026-11-20", today, 2)
    assert expired("app.log.2026-11-19", today, 2)
    assert expired("app.log.2026-11-19.3", today, 2)
    assert not expired("app.log", today, 2)
    assert not expired("app.log.2026-13-40", today, 2)


WRITER = """
import sys
from vllm_obtain import log
from vllm_obtain.settings import Settings
folder, name = sys.argv[1:]
log.configure(Settings.load({"LOG_DIR": folder, "LOG_RETENTION_DAYS": "3650"}), name, False)
logger = log.get_logger(log.MODELS)
for number in range(500):
    if number == 100:
        print("waiting", flush=True)
        sys.stdin.readline()
    logger.info("line", number=number, text="x" * (number * 7 % 900))
"""


def test_processes_that_write_across_a_rotation_lose_nothing(folder):
    names = ["a", "b", "c", "d"]
    command = [sys.executable, "-c", WRITER, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(subprocess.Popen([*command, n], **pipes)) for n in names]
        assert [writer.stdout.readline() for writer in writers] == ["waiting\n"] * 4
        make_rotation_due(folder, now=datetime(2025, 6, 2, tzinfo=UTC))
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
        assert [writer.wait(60) for writer in writers] == [0] * 4
    (rotated,) = folder.glob("app.log.*")
    assert rotated.name == "app.log.2025-06-01"
    parts = [lines(folder, rotated.name), lines(folder)]
    assert len(parts[0]) == 400 and len(parts[1]) == 1600
    expected = {(name, number) for name in names for number in range(500)}
    assert {(line["process"], line["number"]) for line in parts[0] + parts[1]} == expected
    assert len(lines(folder, "model_operations.log")) == 2000


def test_a_forked_worker_writes_whole_lines_too(folder):
    start(folder)
    logger = log.get_logger("vllm_obtain.x")
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


GREENLETS = """
from gevent import monkey; monkey.patch_all()
import sys, gevent
from vllm_obtain import log
from vllm_obtain.settings import Settings
log.configure(Settings.load({"LOG_DIR": sys.argv[1]}), "gateway", False)
logger = log.get_logger("vllm_obtain.x")
def serve(number):
    log.bind(request_id=number)
    for _ in range(5):
        gevent.sleep(0.001)
        logger.info("served", expected=number)
gevent.joinall([gevent.spawn(serve, n) for n in range(40)], raise_error=True)
"""


def test_each_greenlet_has_its_own_request_id(folder):
    subprocess.run([sys.executable, "-c", GREENLETS, str(folder)], check=True, timeout=60)
    got = lines(folder)
    assert len(got) == 200
    assert all(line["request_id"] == line["expected"] for line in got)
