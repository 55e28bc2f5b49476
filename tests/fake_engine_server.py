"""The process of the fake engine; standard library only, like every engine's.

    python fake_engine_server.py SOCKET SWITCHES

A chat is answered with the words of its last message, so that mixed-up answers show.
"""

from __future__ import annotations

import json
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

SWITCHES: dict[str, Any] = {}
PRESENT: list[int] = []
TOGETHER = threading.Condition()


def switch(name: str, default: Any = None) -> Any:
    return SWITCHES.get(name, default)


def wait_for(path: str) -> None:
    while not Path(path).exists():
        time.sleep(0.01)


def note(text: str) -> None:
    if switch("request_log"):
        with Path(switch("request_log")).open("a") as log:
            log.write(text + "\n")


def should_crash() -> bool:
    marker = switch("crash_once")
    if not marker:
        return True
    if Path(marker).exists():
        return False
    Path(marker).touch()
    return True


class Handler(BaseHTTPRequestHandler):
    """One request per connection."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def address_string(self) -> str:
        return "unix"

    def do_GET(self) -> None:
        ready = not switch("never_ready")
        self.answer(200 if ready else 503, {"status": "ok" if ready else "loading"})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            self.generate(body)
            note("done")
        except OSError:
            note("cancelled")

    def generate(self, body: dict[str, Any]) -> None:
        chat = "messages" in body
        prompt = body["messages"][-1]["content"] if chat else str(body["prompt"])
        words = prompt.split() or ["nothing"]
        warm_up = not chat and prompt == "Hello"
        if not warm_up:
            self.misbehave_before()
            if switch("error"):
                self.answer(switch("error_status", 500), {"error": switch("error")})
                return
        self.begin()
        self.event(prompt_progress={"total": len(words), "processed": len(words), "cache": 0})
        limit = body["max_tokens"] if body["max_tokens"] >= 0 else 10_000
        count = min(limit, len(words)) if limit < 10_000 else len(words)
        for number in range(count):
            self.token(chat, words[number] + " ", number, warm_up)
        reason = "stop" if count == len(words) else "length"
        usage = {"prompt_tokens": len(words), "completion_tokens": count}
        self.choice(chat, "", reason)
        self.event(choices=[], usage=usage)
        self.write(b"data: [DONE]\n\n")
        self.write(b"")

    def misbehave_before(self) -> None:
        if switch("barrier"):
            with TOGETHER:
                PRESENT.append(1)
                TOGETHER.notify_all()
                TOGETHER.wait_for(lambda: len(PRESENT) >= switch("barrier"))
        if switch("crash_before_first_byte") and should_crash():
            os._exit(9)
        if switch("hang_before_first_byte"):
            self.wait_or_leave(switch("hang_before_first_byte"))

    def wait_or_leave(self, path: str) -> None:
        """Wait for a file, or for the client to go."""
        self.connection.settimeout(0.02)
        while not Path(path).exists():
            try:
                if not self.connection.recv(1):
                    raise ConnectionResetError
            except TimeoutError:
                continue
        self.connection.settimeout(None)

    def token(self, chat: bool, text: str, number: int, warm_up: bool) -> None:
        if not warm_up:
            if switch("crash_after_tokens") == number and should_crash():
                os._exit(9)
            if switch("hang_after_tokens") == number:
                self.wait_or_leave("/nonexistent")
            if switch("garbage_chunk"):
                self.write(b"data: {not json\n\n")
            if switch("pace"):
                time.sleep(switch("pace"))
        self.choice(chat, text, None)

    def choice(self, chat: bool, text: str, reason: str | None) -> None:
        piece = {"delta": {"content": text} if text else {}} if chat else {"text": text}
        self.event(choices=[{"index": 0, "finish_reason": reason, **piece}])

    def event(self, **fields: Any) -> None:
        self.write(b"data: " + json.dumps(fields).encode() + b"\n\n")

    def begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()

    def write(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def answer(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A thread per connection."""

    daemon_threads = True
    request_queue_size = 128


def main() -> None:
    socket, path = sys.argv[1], Path(sys.argv[2])
    if path.exists():
        SWITCHES.update(json.loads(path.read_text()))
    for line in switch("print_at_start", ()):
        print(line)
    if switch("ignore_sigterm"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if switch("grandchild"):
        child = subprocess.Popen(["sleep", "600"])
        Path(switch("grandchild")).write_text(str(child.pid))
    if switch("exit_at_start") is not None:
        sys.exit(switch("exit_at_start"))
    if switch("slow_start"):
        wait_for(switch("slow_start"))
    Server(socket, Handler).serve_forever()


if __name__ == "__main__":
    main()
