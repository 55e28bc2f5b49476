"""The process of the fake engine; standard library only, and started by path, like every engine's.

    python fake_engine_server.py SOCKET SWITCHES

SWITCHES is a file of JSON; `Switches` says what can be made to happen. The supervisor's warm-up
(the completion of `Hello`) goes well in any case, unless `warm_up_too` is set.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

POLL = 0.005


@dataclasses.dataclass
class Switches:
    """What the engine does wrong. Tokens are counted from the first one.

    Args:
        slots: as in `messages.Limits`, and the next two.
        print_at_start: the lines it prints.
        slow_start: a file; it loads until that exists.
        never_ready: /health answers 503 for ever.
        exit_at_start: it ends with this status instead of serving.
        ignore_sigterm: it has to be killed.
        grandchild: a file; it starts a process of its own and notes its pid there.
        warm_up_too: what follows happens to the supervisor's warm-up as well.
        barrier: it answers only when so many requests have come together.
        error: the error object it answers with, with `error_status`; `{prompt}` in its message is
            what it was asked.
        error_after_tokens: it reports an error in its stream after so many tokens.
        crash_before_first_byte: it ends when it is asked.
        crash_after_tokens: it ends after so many tokens.
        crash_signal: the signal that ends it when it crashes; it exits with status 9 without one.
        only_on: the trouble befalls prompts with this word only.
        crash_once: a file; a crash happens only while that does not exist, and makes it.
        hang_before_first_byte: a file; it hangs until that exists.
        hang_after_tokens: it hangs after so many tokens until the client goes.
        freeze_after_tokens: the whole process stops (SIGSTOP) after so many tokens.
        grow_mib: memory that it takes for good with each token, in MiB.
        prompt_seconds: how long it reads a prompt; it makes steps meanwhile, and tells nothing.
        garbage_chunk: it sends what is no chunk.
        lacks: what its streams are without: `end` (of the choices) or `usage`.
        pace: seconds before each token.
        wide: bytes of each token at least.
        request_log: a file; `arrived`, then `done N` or `cancelled N` for each request and its
            tokens.
        body_log: a file; the body of each request, one a line.
        print_prompts: it prints each prompt.
        script: completions of requests with tools; the number of tool results in the prompt is
            the index.
    """

    slots: int = 8
    pool_tokens: int = 8192
    context: int = 2048
    print_at_start: Sequence[str] = ()
    slow_start: str = ""
    never_ready: bool = False
    exit_at_start: int | None = None
    ignore_sigterm: bool = False
    grandchild: str = ""
    warm_up_too: bool = False
    barrier: int = 0
    error: dict[str, Any] | None = None
    error_status: int = 500
    error_after_tokens: int | None = None
    crash_before_first_byte: bool = False
    crash_after_tokens: int | None = None
    crash_signal: int = 0
    only_on: str = ""
    crash_once: str = ""
    hang_before_first_byte: str = ""
    hang_after_tokens: int | None = None
    freeze_after_tokens: int | None = None
    grow_mib: int = 0
    prompt_seconds: float = 0.0
    garbage_chunk: bool = False
    lacks: str = ""
    pace: float = 0.0
    wide: int = 0
    request_log: str = ""
    body_log: str = ""
    print_prompts: bool = False
    script: Sequence[str] = ()

    def spared(self) -> Switches:
        """What holds for a request that no trouble befalls."""
        if not self.only_on:
            return Switches()
        return Switches(pace=self.pace, request_log=self.request_log)

    @classmethod
    def read(cls, source: str | Path) -> Switches:
        """Read them from JSON, or from a file of it; a missing file sets no switch."""
        text = str(source)
        if not text.startswith("{"):
            text = Path(text).read_text() if Path(text).exists() else "{}"
        given = json.loads(text)
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in given.items() if name in known})


class ClientGone(Exception):
    """The client closed its connection."""


class Server:
    """Serves on a Unix socket, a thread per connection."""

    def __init__(self, switches: Switches) -> None:
        self.switches = switches
        self._writing = threading.Lock()
        self.steps = 0
        self.hoard: list[bytes] = []
        self.running = 0
        self.barrier = threading.Barrier(switches.barrier) if switches.barrier else None

    def serve(self, path: str) -> None:
        """Listen; returns when the process is ended."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(path)
            listener.listen(128)
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def note(self, line: str) -> None:
        """Write a line in the log of requests."""
        if self.switches.request_log:
            with self._writing, Path(self.switches.request_log).open("a") as file:
                file.write(line + "\n")

    def _metrics(self) -> str:
        counted = f"llamacpp:n_decode_total {self.steps}\n"
        return f"# HELP x y\n{counted}llamacpp:requests_processing {self.running}\n"

    def _talk(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            method, path, body = read_request(client)
            if path == "/metrics":
                answer_text(client, self._metrics())
            elif method == "GET":
                ready = not self.switches.never_ready
                send_response(
                    client, 200 if ready else 503, {"status": "ok" if ready else "loading"}
                )
            elif path == "/tokenize":
                Tokens(self, client, {"prompt": body["content"]}).run()
            else:
                Completion(self, client, body).run()


class Completion:
    """One request and its stream: the words of the prompt, so that mixed-up answers show."""

    def __init__(self, server: Server, client: socket.socket, body: dict[str, Any]) -> None:
        self._server = server
        self._client = client
        self._body = body
        self._chat = "messages" in body
        prompt = body["messages"][-1]["content"] if self._chat else str(body["prompt"])
        self._words = self._completion(prompt)
        self._warm_up = prompt == "Hello" and not server.switches.warm_up_too
        spared = self._warm_up or server.switches.only_on not in prompt
        self._switches = server.switches.spared() if spared else server.switches
        self._sent = 0
        self._begun = False

    def _completion(self, prompt: str) -> list[str]:
        script = self._server.switches.script
        if script and "grammar" in self._body:
            return [script[min(prompt.count("<tool_response>"), len(script) - 1)]]
        return last_message(prompt).split() or ["nothing"]

    def run(self) -> None:
        """Answer, unless a switch or the client is against it."""
        if self._switches.body_log:
            with Path(self._switches.body_log).open("a") as file:
                file.write(json.dumps(self._body) + "\n")
        if self._switches.print_prompts:
            print("asked:", " ".join(self._words), flush=True)
        self._note("arrived")
        self._server.running += 1
        try:
            self._trouble_before()
            if self._switches.error is not None:
                said = self._switches.error
                text = str(said.get("message")).replace("{prompt}", " ".join(self._words))
                send_response(
                    self._client, self._switches.error_status, {"error": said | {"message": text}}
                )
            else:
                self._stream()
            self._note(f"done {self._sent}")
        except (ClientGone, OSError):
            self._note(f"cancelled {self._sent}")
        finally:
            self._server.running -= 1

    def _stream(self) -> None:
        words, limit = self._words, int(self._body["max_tokens"])
        choices = range(self._body.get("n", 1))
        count = len(words) if limit < 0 else min(limit, len(words))
        self._send(prompt_progress={"total": len(words), "processed": len(words), "cache": 0})
        for word in words[:count]:
            self._trouble()
            for index in choices:
                self._choice(word.ljust(self._switches.wide) + " ", None, index)
            self._sent += 1
            self._server.steps += 1
            if self._switches.grow_mib:
                self._server.hoard.append(b"x" * (self._switches.grow_mib << 20))
        self._trouble()
        for index in choices:
            # Each choice's tokens behind its end, as llama.cpp tells them.
            if self._switches.lacks != "end":
                self._choice("", "stop" if count == len(words) else "length", index)
            usage = {"prompt_tokens": len(words), "completion_tokens": count}
            if self._switches.lacks != "usage":
                self._send(choices=[], usage=usage)
        # In one piece: who has read the mark may be gone before anything else could be sent.
        self._chunk(b"data: [DONE]\n\n", end=b"0\r\n\r\n")

    def _trouble_before(self) -> None:
        switches = self._switches
        if self._server.barrier is not None and not self._warm_up:
            self._server.barrier.wait(timeout=30)
        if switches.crash_before_first_byte and first_time(switches.crash_once):
            crash(switches)
        end = time.monotonic() + switches.prompt_seconds
        while switches.prompt_seconds and time.monotonic() < end:
            self._server.steps += 1
            time.sleep(POLL)
        if switches.hang_before_first_byte:
            self._wait(Path(switches.hang_before_first_byte).exists)

    def _trouble(self) -> None:
        """Do what the switches say has to happen after this many tokens."""
        switches, now = self._switches, self._sent
        if switches.crash_after_tokens == now and first_time(switches.crash_once):
            crash(switches)
        if switches.hang_after_tokens == now:
            self._wait(lambda: False)
        if switches.freeze_after_tokens == now and first_time(switches.crash_once):
            os.kill(os.getpid(), signal.SIGSTOP)
            time.sleep(1)  # the signal goes to any thread: this one may run on for a moment
        if switches.garbage_chunk:
            self._chunk(b"data: {not json\n\n")
        if switches.error_after_tokens == now:
            said = f"as the switch says: {' '.join(self._words)}" if switches.print_prompts else ""
            message = said or "as the switch says"
            self._send(error={"code": 500, "message": message, "type": "server_error"})
        if switches.pace:
            end = time.monotonic() + switches.pace
            self._wait(lambda: time.monotonic() >= end)

    def _wait(self, over: Callable[[], bool]) -> None:
        self._client.settimeout(POLL)
        while not over():
            with contextlib.suppress(TimeoutError):
                if not self._client.recv(1, socket.MSG_PEEK):
                    raise ClientGone
        self._client.settimeout(None)

    def _choice(self, text: str, reason: str | None, index: int) -> None:
        piece = {"delta": {"content": text} if text else {}} if self._chat else {"text": text}
        self._send(choices=[{"index": index, "finish_reason": reason, **piece}])

    def _send(self, **chunk: Any) -> None:
        self._chunk(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def _chunk(self, data: bytes, end: bytes = b"") -> None:
        head = b""
        if not self._begun:
            self._begun = True
            head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            head += b"Transfer-Encoding: chunked\r\n\r\n"
        self._client.sendall(head + b"%x\r\n%s\r\n" % (len(data), data) + end)

    def _note(self, line: str) -> None:
        if not self._warm_up:
            self._server.note(line)


class Tokens(Completion):
    """A request for the tokens of a text: its words, numbered."""

    def _stream(self) -> None:
        if self._switches.garbage_chunk:
            send_response(self._client, 200, {"neither": "here"})
        else:
            send_response(self._client, 200, {"tokens": list(range(len(self._words)))})


def last_message(prompt: str) -> str:
    """The text of the last message if it is a conversation in ChatML, else all of it."""
    _, found, rest = prompt.rpartition("<|im_start|>user\n")
    return rest.partition("<|im_end|>")[0] if found else prompt


def read_request(client: socket.socket) -> tuple[str, str, Any]:
    """Read one HTTP request: its method, its path and its JSON."""
    with client.makefile("rb") as file:
        if not (first := file.readline()):
            raise ConnectionResetError("it asked nothing")
        method, path, _ = first.decode().split()
        length = 0
        while (line := file.readline().strip()) != b"":
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return method, path, json.loads(file.read(length)) if length else None


def send_response(client: socket.socket, status: int, body: dict[str, Any]) -> None:
    """Send a whole answer."""
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} Fake\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)


def crash(switches: Switches) -> None:
    """End now."""
    if switches.crash_signal:
        os.kill(os.getpid(), switches.crash_signal)
        time.sleep(10)
    os._exit(9)


def answer_text(client: socket.socket, text: str) -> None:
    """Send a whole answer that is no JSON."""
    head = "HTTP/1.1 200 Fake\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    client.sendall((head + text).encode())


def first_time(marker: str) -> bool:
    """Whether this happens for the first time; without a marker, every time is."""
    if not marker:
        return True
    with contextlib.suppress(FileExistsError):
        Path(marker).touch(exist_ok=False)
        return True
    return False


def start(switches: Switches) -> None:
    """Do what the switches say of the start."""
    for line in switches.print_at_start:
        print(line, flush=True)
    if switches.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if switches.grandchild:
        sleeper = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
        Path(switches.grandchild).write_text(str(subprocess.Popen(sleeper).pid))
    while switches.slow_start and not Path(switches.slow_start).exists():
        time.sleep(POLL)
    if switches.exit_at_start is not None:
        sys.exit(switches.exit_at_start)


if __name__ == "__main__":
    found = Switches.read(sys.argv[2])
    start(found)
    Server(found).serve(sys.argv[1])
