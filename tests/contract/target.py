"""An engine under contract: its adapter's table, and the whole service in front of it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import psutil
from tokenizers import Tokenizer

from tests.fleet import MODEL
from tests.service import Service
from vllm_obtain.engines.adapter import Adapter
from vllm_obtain.gateway.inference.context import ADVISORY

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
# What ends an answer of the embedded model; forbidden where a test needs a number of tokens.
NO_END = {"0": -100, "2": -100}
Body = dict[str, Any]


@dataclass
class Answer:
    """A completion, plain or streamed, in one shape.

    Args:
        pieces: its text as it came, one piece per chunk.
        finish: why it ended.
        usage: None when a stream did not tell.
        entries: log probabilities in the chat shape.
    """

    pieces: list[str]
    finish: str
    usage: Body | None
    entries: list[Body]

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def tokens(self) -> list[str]:
        return [entry["token"] for entry in self.entries]


@dataclass(frozen=True)
class Target:
    """An engine, reached through the gateway.

    Args:
        adapter: its capability table decides what a test expects.
        service: a service with this engine and the embedded model.
        tokenizer: the embedded model's.
    """

    adapter: Adapter
    service: Service
    tokenizer: Tokenizer = field(repr=False)

    @property
    def name(self) -> str:
        return self.adapter.name

    @cached_property
    def context(self) -> int:
        return int(self.service.engine()["context"])

    def token(self, text: str) -> str:
        """The id of the one token that spells a text, as `logit_bias` wants it."""
        (found,) = self.tokenizer.encode(text).ids
        return str(found)

    def honours(self, path: str = CHAT, **parameters: Any) -> bool:
        """Whether the table has all of these; what it lacks must be refused by its name."""
        supported = self.adapter.parameters | ADVISORY
        lacking = [name for name in parameters if name not in supported]
        for name in lacking:
            for stream in (False, True):
                error = self.refused(path, {name: parameters[name], "stream": stream})
                assert (error["code"], error["param"]) == ("unsupported_parameter", name)
        return not lacking

    def refused(self, path: str, body: Body) -> Body:
        """The error object of a request that must be a 400."""
        status, _, answer = self.service.request(path, _complete_body(path, body))
        assert status == 400, (body, status, answer[:300])
        error = json.loads(answer)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return dict(error)

    def ignored(self, path: str, body: Body) -> str:
        """The ignored parameters of a request that must be a 200."""
        status, headers, answer = self.service.request(path, _complete_body(path, body))
        assert status == 200, (body, status, answer[:300])
        return headers.get("x-ignored-parameters", "")

    def chat(self, text: str = "Say hi.", **more: Any) -> Answer:
        """Ask for a chat completion; greedy unless told otherwise."""
        messages = [{"role": "user", "content": text}]
        return self.ask(CHAT, {"messages": messages, "temperature": 0, **more})

    def complete(self, prompt: str | list[int], **more: Any) -> Answer:
        """Ask for a text completion; greedy unless told otherwise."""
        return self.ask(TEXT, {"prompt": prompt, "temperature": 0, **more})

    def both(self, prompt: str, **more: Any) -> list[Answer]:
        """Ask for a text completion plain, and then streamed."""
        return [self.complete(prompt, stream=stream, **more) for stream in (False, True)]

    def ask(self, path: str, body: Body) -> Answer:
        """Ask for one completion of at most 8 tokens, if the body says nothing else."""
        status, _, answer = self.service.request(path, _complete_body(path, body), timeout=120)
        assert status == 200, (body, status, answer[:300])
        if body.get("stream"):
            return _join_chunks(_events(answer.decode()))
        return _read(json.loads(answer))

    def send(self, path: str, body: Body) -> socket.socket:
        """Send a request and leave its answer unread."""
        data = json.dumps(_complete_body(path, body)).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        line = socket.create_connection(("127.0.0.1", self.service.port), timeout=120)
        line.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        return line

    def stream(self, path: str, body: Body) -> Iterator[Body]:
        """Yield the chunks of a stream as they come; closing the iterator leaves."""
        with self.send(path, {**body, "stream": True}) as line, line.makefile("rb") as lines:
            for text in lines:
                if text.startswith(b"data: {"):
                    yield json.loads(text[6:])
                elif text.startswith(b"data: [DONE]"):
                    return

    def busy(self, seconds: float) -> float:
        """How many cores the engine's processes use over some time."""
        engine = psutil.Process(self.service.engine()["pid"])
        processes = [engine, *engine.children(recursive=True)]
        before = _cpu_seconds(processes)
        psutil.wait_procs([engine], timeout=seconds)
        return (_cpu_seconds(processes) - before) / seconds


def run_concurrently(asks: Sequence[Callable[[], Any]]) -> list[Any]:
    """Call all at once, in threads; the results in the same order."""
    results: dict[int, Any] = {}

    def call(number: int) -> None:
        try:
            results[number] = asks[number]()
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=call, args=(number,)) for number in range(len(asks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results.values():
        if isinstance(result, BaseException):
            raise result
    return [results[number] for number in range(len(asks))]


def _complete_body(path: str, body: Body) -> Body:
    asked = {"messages": [{"role": "user", "content": "Hi"}]} if path == CHAT else {"prompt": "Hi"}
    limit = {} if "max_completion_tokens" in body else {"max_tokens": 8}
    return {"model": MODEL, **asked, **limit, **body}


def _events(stream: str) -> list[Body]:
    lines = [line for line in stream.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)
    chunks = [json.loads(line[6:]) for line in lines[:-1]]
    assert not any("error" in chunk for chunk in chunks), chunks[-1]
    return chunks


def _join_chunks(chunks: list[Body]) -> Answer:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    (finish,) = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    entries = [entry for choice in choices for entry in _entries(choice)]
    usage = next((chunk["usage"] for chunk in chunks if chunk.get("usage")), None)
    return Answer([_text(choice) for choice in choices], finish, usage, entries)


def _read(answer: Body) -> Answer:
    (choice,) = answer["choices"]
    return Answer([_text(choice)], choice["finish_reason"], answer["usage"], _entries(choice))


def _text(choice: Body) -> str:
    said = choice.get("delta") or choice.get("message") or choice
    return str(said.get("content") or said.get("text") or "")


def _entries(choice: Body) -> list[Body]:
    logprobs = choice.get("logprobs") or {}
    if "tokens" not in logprobs:
        return list(logprobs.get("content") or ())
    rows = zip(*(logprobs[name] for name in _COLUMNS), strict=True)
    return [dict(zip(("token", "logprob", "top", "offset"), row, strict=True)) for row in rows]


_COLUMNS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total
