import json
import logging
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.logs.helpers import events, lines, start
from vllm_obtain.logs import setup
from vllm_obtain.logs.formatters import JsonLines, encode

FILES = ["app.log", "api_requests.log", "model_operations.log", "system_metrics.log", "errors.log"]


def test_a_line_has_time_event_and_process(folder):
    start(folder)
    before = datetime.now(UTC)
    setup.get_logger("vllm_obtain.api").info("worker started", port=8001, pid=7)
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
    for name in (
        setup.ACCESS,
        setup.MODELS,
        setup.SYSTEM,
        "vllm_obtain.systematic",
        "vllm_obtain.x",
    ):
        setup.get_logger(name).info(name)
        setup.get_logger(name).error(f"{name} failed")
    got = {file: [e for e in events(folder, file) if not e.endswith("failed")] for file in FILES}
    assert got == {
        "app.log": [setup.MODELS, "vllm_obtain.systematic", "vllm_obtain.x"],
        "api_requests.log": [setup.ACCESS],
        "model_operations.log": [setup.MODELS],
        "system_metrics.log": [setup.SYSTEM],
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
def test_the_level_applies_to_app_log_and_the_terminal(folder, capsys, more, expected):
    start(folder, console=True, **more)
    logger = setup.get_logger("vllm_obtain.levels")  # the same one in each round
    for level in ("debug", "info", "warning", "error", "critical"):
        getattr(logger, level)(f"at {level}")
    assert [line["level"] for line in lines(folder)] == expected
    output = capsys.readouterr().err.splitlines()
    assert [line.split("[")[1].split()[0].rstrip("]") for line in output] == expected


def test_separate_files_are_written_regardless_of_the_level(folder):
    start(folder, log_level="ERROR")
    for name in (setup.ACCESS, setup.MODELS, setup.SYSTEM):
        setup.get_logger(name).info("kept")
    assert events(folder, "api_requests.log") == ["kept"]
    assert events(folder, "model_operations.log") == ["kept"]
    assert events(folder, "system_metrics.log") == ["kept"]
    assert events(folder) == []


def test_access_lines_reach_the_terminal_only_at_debug(folder, capsys):
    start(folder, console=True)
    setup.get_logger(setup.ACCESS).info("GET /health")
    assert capsys.readouterr().err == ""
    start(folder, console=True, debug=True)
    setup.get_logger(setup.ACCESS).info("GET /health")
    assert "GET /health" in capsys.readouterr().err


def test_the_request_id_is_in_every_line_until_it_is_cleared(folder):
    start(folder)
    setup.bind(request_id="r-1", model="m")
    for name in (setup.ACCESS, setup.MODELS, "vllm_obtain.x"):
        setup.get_logger(name).error("during")
    logging.getLogger("asyncio").error("not ours")
    setup.clear()
    setup.get_logger("vllm_obtain.x").error("after")
    by_event = {}
    for line in lines(folder, "errors.log"):
        by_event.setdefault(line["event"], []).append(line.get("request_id"))
    assert by_event == {"during": ["r-1"] * 3, "not ours": [None], "after": [None]}


def test_third_party_loggers_use_the_same_handlers(folder, capsys):
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


def test_messages_of_exceptions_are_omitted(folder, capsys):
    start(folder, console=True)
    try:
        try:
            int("MARKER")
        except ValueError as error:
            raise KeyError("MARKER") from error
    except KeyError:
        setup.get_logger("vllm_obtain.x").exception("request failed")
    try:
        Path("/no/such/file").read_text()
    except OSError:
        setup.get_logger("vllm_obtain.x").exception("file missing")
    first, second = (line["exception"] for line in lines(folder))
    assert first.splitlines()[-1] == "KeyError" and "\nValueError\n" in first
    assert second.endswith("No such file or directory: '/no/such/file'")
    output = capsys.readouterr().err
    assert "KeyError" in output and "MARKER" not in output.replace('"MARKER"', "")


@pytest.mark.parametrize("private", [True, False])
def test_server_errors_do_not_quote_the_request(folder, private):
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
            setup.get_logger("vllm_obtain.x").exception("request failed")
        elif how == "exc_info":
            setup.get_logger("vllm_obtain.x").error("request failed", exc_info=error)
        else:
            logging.getLogger("asyncio").exception("request failed")
    text = lines(folder)[0]["exception"]
    assert text.startswith("Traceback") and text.endswith("ValueError: no such engine")
    assert "in fail" in text
    assert text == lines(folder, "errors.log")[0]["exception"]
    output = capsys.readouterr().err
    assert "ValueError: no such engine" in output
    written = "".join(file.read_text() for file in folder.glob("*.log"))
    assert "MARKER-7" not in output + written


def test_escape_codes_of_a_client_do_not_reach_the_terminal(folder, capsys):
    start(folder, console=True)
    setup.get_logger("vllm_obtain.x").info("asked", model="\x1b[2Jm")
    logging.getLogger("gunicorn.error").warning("Invalid request: \x1b[2J\x9b")
    output = capsys.readouterr().err
    assert "\x1b" not in output and "\x9b" not in output and "asked" in output


def test_unusual_values_are_encoded_in_valid_lines():
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


def test_mismatched_format_arguments_of_a_library_are_logged():
    record = logging.LogRecord("lib", logging.ERROR, "", 0, "%s of %s", ("one",), None)
    assert json.loads(JsonLines("gateway").format(record))["event"] == "%s of %s"


def test_without_log_files_nothing_is_written(folder):
    start(folder, enable_log_file=False)
    setup.get_logger("vllm_obtain.x").error("gone")
    assert not folder.exists()


def test_configuring_again_replaces_the_handlers(folder, tmp_path):
    start(folder)
    old = list(logging.getLogger().handlers)
    start(tmp_path / "other", process="supervisor")
    setup.get_logger("vllm_obtain.x").info("here")
    assert events(folder) == []
    assert [line["process"] for line in lines(tmp_path / "other")] == ["supervisor"]
    ours = [h for h in logging.getLogger().handlers if isinstance(h, setup.LogFile)]
    assert len(ours) == len(FILES)
    assert not set(ours) & set(old)
    setup.close()
    assert not [h for h in logging.getLogger().handlers if isinstance(h, setup.LogFile)]


def test_a_logger_works_before_logging_is_set_up(capsys, caplog):
    setup.close()
    setup.get_logger("vllm_obtain.early").warning("too early", a=1)
    assert [record.getMessage() for record in caplog.records] == ["too early"]
    assert capsys.readouterr().out == ""


GREENLETS = """
from gevent import monkey; monkey.patch_all()
import sys, gevent
from vllm_obtain.logs import setup as log
from vllm_obtain.config.settings import Settings
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
