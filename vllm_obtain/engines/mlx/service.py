"""The routes: from a connection to a request, and from its events to a stream."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from . import http
from .config import Config
from .errors import Refusal, too_long
from .events import Event, Finish
from .load import Loaded
from .render import Renderer
from .request import Request, integer, read_logprobs, read_sampling, read_stop
from .row import horizon
from .scheduler import Scheduler, Told

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


class Service:
    """Answers connections; `ready` is called when there is a model to answer with."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loaded: Loaded | None = None
        self._scheduler: Scheduler | None = None

    def ready(self, loaded: Loaded, scheduler: Scheduler) -> None:
        """Serve from now on."""
        self._loaded, self._scheduler = loaded, scheduler

    def deliver(self, told: Told) -> None:
        """Hand out events; called on the loop."""
        for request, event in told:
            request.tell(event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection."""
        # A client that went away, or half of a request: there is nobody to tell.
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            try:
                method, path, body = await http.read_request(reader)
                await self._answer(method, path, body, reader, writer)
            except Refusal as refusal:
                writer.write(http.answer(400, {"error": refusal.body}))
            await writer.drain()
        writer.close()

    async def _answer(
        self,
        method: str,
        path: str,
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if self._scheduler is None:
            writer.write(http.answer(503, {"error": {"message": "loading", "code": 503}}))
        elif method == "GET" and path == "/health":
            writer.write(http.answer(200, {"status": "ok"}))
        elif method == "GET" and path == "/metrics":
            writer.write(http.answer(200, self._metrics(self._scheduler)))
        elif method == "POST" and path in (CHAT, COMPLETION):
            await self._generate(path == CHAT, http.read_json(body), reader, writer)
        else:
            writer.write(http.answer(404, {"error": {"message": "no such route", "code": 404}}))

    async def _generate(
        self,
        chat: bool,
        body: dict[str, Any],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        assert self._scheduler is not None  # noqa: S101 - `_answer` looked
        events: asyncio.Queue[Event | None] = asyncio.Queue()
        # Long prompts take a while to tokenise: other connections are answered meanwhile.
        request = await asyncio.to_thread(self._read, chat, body, events)
        renderer = Renderer(chat, bool(body.get("return_progress")))
        watch = asyncio.create_task(_tell_when_gone(reader, events))
        writer.write(http.STREAM_HEAD)
        self._scheduler.submit(request)
        try:
            await _stream(events, renderer, writer)
        finally:
            watch.cancel()
            # After its end this does nothing.
            self._scheduler.cancel(request)

    def _read(
        self, chat: bool, body: dict[str, Any], events: asyncio.Queue[Event | None]
    ) -> Request:
        """Check a body and make a request of it."""
        assert self._loaded is not None  # noqa: S101 - `_answer` looked
        if body.get("stream") is not True:
            raise Refusal("This engine answers streams only: set 'stream' to true.", param="stream")
        prompts = self._loaded.prompts
        tokens = prompts.chat(body) if chat else prompts.completion(body)
        room = self._config.context - len(tokens)
        if room <= 0:
            raise too_long(len(tokens), self._config.context)
        asked = integer(body, "max_tokens", -1, -1, 2**31)
        bounded = asked > 0
        most = min(asked, room) if bounded else room
        request = Request(
            tokens=tokens,
            max_tokens=most,
            bounded=bounded,
            sampling=read_sampling(body, self._loaded.vocabulary),
            stop=read_stop(body),
            logprobs=read_logprobs(body),
            tell=events.put_nowait,
        )
        # By the scheduler's own measure: what passes here must fit when it is alone.
        self._loaded.memory.check(horizon(request, 0), len(tokens))
        return request

    def _metrics(self, scheduler: Scheduler) -> dict[str, Any]:
        return {
            **vars(scheduler.numbers),
            "running": scheduler.running,
            "waiting": scheduler.waiting,
            "slots": self._config.slots,
            "prefix_queries": scheduler.prefixes.queries,
            "prefix_hits": scheduler.prefixes.hits,
            "prefix_bytes": scheduler.prefixes.bytes,
        }


async def _stream(
    events: asyncio.Queue[Event | None], renderer: Renderer, writer: asyncio.StreamWriter
) -> None:
    """Write events until the last; a None among them means that the client is gone."""
    while True:
        batch = [await events.get()]
        while not events.empty():
            batch.append(events.get_nowait())
        if None in batch:
            return
        data = b"".join(renderer.render(event) for event in batch if event is not None)
        if data:
            writer.write(http.chunk(data))
        if isinstance(batch[-1], Finish):
            writer.write(http.STREAM_END)
            return
        await writer.drain()


async def _tell_when_gone(
    reader: asyncio.StreamReader, events: asyncio.Queue[Event | None]
) -> None:
    """Wait for the end of what the client sends; it has nothing more to say."""
    with contextlib.suppress(OSError):
        while await reader.read(4096):
            pass
    events.put_nowait(None)
