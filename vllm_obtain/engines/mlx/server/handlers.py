"""Request handlers: parse requests and write their events as streams."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from . import http1
from .config import Config
from .embeddings import Embedder
from .errors import ErrorResponse, too_long
from .events import Event
from .model_loader import LoadedModel
from .openai_chunks import Renderer
from .request import Request, Sampling, integer, read_logprobs, read_salt, read_sampling, read_stop
from .scheduler import RequestEvents, Scheduler
from .sequence import horizon
from .tokenize_routes import Tokens

COMPLETION = "/v1/completions"
EMBEDDINGS, TOKENIZE, DETOKENIZE = "/v1/embeddings", "/tokenize", "/detokenize"
Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class RequestHandlers:
    """Serves connections; `ready` or `embed` is called once the model is loaded."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loaded: LoadedModel | None = None
        self._scheduler: Scheduler | None = None
        # Routes with non-streamed responses.
        self._handlers: dict[str, Handler] = {}
        self._metrics: Callable[[], dict[str, Any]] = dict

    def ready(self, loaded: LoadedModel, scheduler: Scheduler) -> None:
        """Start serving generation."""
        self._loaded, self._scheduler = loaded, scheduler
        self._metrics = lambda: self._counters(scheduler)
        self._add_tokenize_routes(Tokens(loaded.prompts, self._config.context))

    def embed(self, embedder: Embedder) -> None:
        """Start serving embeddings."""
        self._metrics = embedder.metrics
        self._add_tokenize_routes(embedder.tokens)
        self._handlers[EMBEDDINGS] = embedder.respond

    def _add_tokenize_routes(self, tokens: Tokens) -> None:
        self._handlers |= {TOKENIZE: tokens.tokenize, DETOKENIZE: tokens.detokenize}

    def deliver(self, events: RequestEvents) -> None:
        """Deliver events to their requests; called on the event loop."""
        for request, event in events:
            request.on_event(event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        # The client disconnected or sent an incomplete request: nothing to respond to.
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            try:
                method, path, body = await http1.read_request(reader)
                await self._respond(method, path, body, reader, writer)
            except ErrorResponse as error:
                writer.write(http1.response(400, {"error": error.body}))
            await writer.drain()
        writer.close()

    async def _respond(
        self,
        method: str,
        path: str,
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if not self._handlers:
            writer.write(
                http1.response(
                    503,
                    {"error": {"message": "The model is loading. Try again later.", "code": 503}},
                )
            )
        elif method == "GET" and path == "/health":
            writer.write(http1.response(200, {"status": "ok"}))
        elif method == "GET" and path == "/metrics":
            writer.write(http1.response(200, self._metrics()))
        elif method == "POST" and path in self._handlers:
            await _respond_when_complete(
                self._handlers[path](http1.read_json(body)), reader, writer
            )
        elif method == "POST" and path == COMPLETION and self._scheduler is not None:
            await self._generate(http1.read_json(body), reader, writer)
        else:
            writer.write(
                http1.response(404, {"error": {"message": "Route not found.", "code": 404}})
            )

    async def _generate(
        self,
        body: dict[str, Any],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        assert self._scheduler is not None  # noqa: S101 - checked by `_respond`
        stream = _Stream(writer)
        self._scheduler.arriving += 1
        try:
            # In a thread, because tokenizing long prompts would block other connections.
            request = await asyncio.to_thread(self._read, body, stream.on_event)
        finally:
            self._scheduler.arriving -= 1
        stream.renderer = Renderer(bool(body.get("return_progress")), request.choices)
        watch = asyncio.create_task(_set_on_disconnect(reader, stream.finished))
        writer.write(http1.STREAM_HEAD)
        self._scheduler.submit(request)
        try:
            await stream.finished.wait()
        finally:
            watch.cancel()
            # Has no effect after the end of the request.
            self._scheduler.cancel(request)

    def _read(self, body: dict[str, Any], on_event: Callable[[Event], None]) -> Request:
        """Parse a body into a request."""
        assert self._loaded is not None  # noqa: S101 - checked by `_respond`
        if body.get("stream") is not True:
            raise ErrorResponse(
                "This engine only supports streaming. Set 'stream' to true.", param="stream"
            )
        tokens = self._loaded.prompts.completion(body)
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
            sampling=self._sampling(self._loaded, body),
            stop=read_stop(body),
            logprobs=read_logprobs(body),
            on_event=on_event,
            choices=integer(body, "n", 1, 1, self._config.slots),
            grammar=self._loaded.grammars.read(body),
            salt=read_salt(body),
        )
        # The same measure as the scheduler's: what passes here fits when it runs alone.
        self._loaded.memory.check(horizon(request, 0), len(tokens), request.choices)
        return request

    def _sampling(self, loaded: LoadedModel, body: dict[str, Any]) -> Sampling:
        sampling = read_sampling(body, loaded.vocabulary)
        if body.get("ignore_eos") is not True:
            return sampling
        never = dict.fromkeys(loaded.ends, -math.inf)
        return replace(sampling, logit_bias=sampling.logit_bias | never)

    def _counters(self, scheduler: Scheduler) -> dict[str, Any]:
        return {
            **vars(scheduler.counters),
            "running": scheduler.running,
            "waiting": scheduler.waiting,
            "slots": self._config.slots,
            "prefix_queries": scheduler.prefixes.queries,
            "prefix_hits": scheduler.prefixes.hits,
            "prefix_bytes": scheduler.prefixes.bytes,
        }


class _Stream:
    """The stream of one response.

    Events are written where they are delivered. Waking a task for each token of each request costs
    more than everything else, and the generation thread waits for the GIL meanwhile. Data that a
    client does not read is buffered, at most one response.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.finished = asyncio.Event()
        self.renderer: Renderer | None = None
        self._writer = writer

    def on_event(self, event: Event) -> None:
        """Write an event; called on the event loop after the request was submitted."""
        assert self.renderer is not None  # noqa: S101 - set before `submit`
        if self.finished.is_set():
            return
        if data := self.renderer.render(event):
            self._writer.write(http1.chunk(data))
        if self.renderer.done:
            self._writer.write(http1.STREAM_END)
            self.finished.set()


async def _respond_when_complete(
    response: Awaitable[dict[str, Any]], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Write a response when it is complete, unless the client disconnects first."""
    task = asyncio.ensure_future(response)
    disconnected = asyncio.create_task(_set_on_disconnect(reader, asyncio.Event()))
    await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
    disconnected.cancel()
    if task.done():
        writer.write(http1.response(200, task.result()))
    else:
        task.cancel()


async def _set_on_disconnect(reader: asyncio.StreamReader, finished: asyncio.Event) -> None:
    """Set `finished` when the client disconnects; it sends nothing more after its request."""
    with contextlib.suppress(OSError):
        while await reader.read(4096):
            pass
    finished.set()
