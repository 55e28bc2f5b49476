"""Sets up logging and reads log files."""

import json
import time

from vllm_obtain.config.settings import Settings
from vllm_obtain.logs import setup


def settings(folder, **more):
    values = {"LOG_DIR": str(folder), **{name.upper(): str(value) for name, value in more.items()}}
    return Settings.load(values)


def start(folder, process="gateway", console=False, **more):
    setup.configure(settings(folder, **more), process, console=console)


def lines(folder, name="app.log"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def events(folder, name="app.log"):
    return [line["event"] for line in lines(folder, name)]


def begin_next_day(monkeypatch):
    """Let this process believe that a day has passed: the next line rotates."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 86_400)
