"""The routes: from a connection to a request, and from its events to a stream."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from . import http
from .config import Config
from .embed import Embedder
from .errors import Refusal, too_long
from .events import Event
from .load import Loaded
from .render import Renderer
from .request import Request, Sampling, integer, read_logprobs, read_salt, read_sampling, read_stop
from .row import horizon
from .scheduler import Scheduler, Told
from .tokens import Tokens

COMPLETION = "/v1/completions"
EMBEDDINGS, TOKENIZE, DETOKENIZE = "/v1/embeddings", "/tokenize", "/detokenize"
Whole = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Service:
    """Answers connections; `ready` or `embed` is called when there is a model to answer with."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._loaded: Loaded | None = None
        self._scheduler: Scheduler | None = None
        # Routes whose answers go out in one piece.
        self._whole: dict[str, Whole] = {}
        self._metrics: Callable[[], dict[str, Any]] = dict

    def ready(self, loaded: Loaded, scheduler: Scheduler) -> None:
        """Serve from now on."""
        self._loaded, self._scheduler = loaded, scheduler
        self._metrics = lambda: self._numbers(scheduler)
        self._tokenise(Tokens(loaded.prompts, self._config.context))

    def embed(self, embedder: Embedder) -> None:
        """Serve vectors from now on."""
        self._metrics = embedder.metrics
        self._tokenise(embedder.tokens)
        self._whole[EMBEDDINGS] = embedder.answer

    def _tokenise(self, tokens: Tokens) -> None:
        self._whole |= {TOKENIZE: tokens.tokenize, DETOKENIZE: tokens.detokenize}

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
        if not self._whole:
            writer.write(http.answer(503, {"error": {"message": "loading", "code": 503}}))
        elif method == "GET" and path == "/health":
            writer.write(http.answer(200, {"status": "ok"}))
        elif method == "GET" and path == "/metrics":
            writer.write(http.answer(200, self._metrics()))
        elif method == "POST" and path in self._whole:
            await _answer_whole(self._whole[path](http.read_json(body)), reader, writer)
        elif method == "POST" and path == COMPLETION and self._scheduler is not None:
            await self._generate(http.read_json(body), reader, writer)
        else:
            writer.write(http.answer(404, {"error": {"message": "no such route", "code": 404}}))

    async def _generate(
        self,
        body: dict[str, Any],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        assert self._scheduler is not None  # noqa: S101 - `_answer` looked
        stream = _Stream(writer)
        self._scheduler.arriving += 1
        try:
            # Long prompts take a while to tokenise: other connections are answered meanwhile.
            request = await asyncio.to_thread(self._read, body, stream.tell)
        finally:
            self._scheduler.arriving -= 1
        stream.renderer = Renderer(bool(body.get("return_progress")), request.choices)
        watch = asyncio.create_task(_tell_when_gone(reader, stream.over))
        writer.write(http.STREAM_HEAD)
        self._scheduler.submit(request)
        try:
            await stream.over.wait()
        finally:
            watch.cancel()
            # After its end this does nothing.
            self._scheduler.cancel(request)

    def _read(self, body: dict[str, Any], tell: Callable[[Event], None]) -> Request:
        """Check a body and make a request of it."""
        assert self._loaded is not None  # noqa: S101 - `_answer` looked
        if body.get("stream") is not True:
            raise Refusal("This engine answers streams only: set 'stream' to true.", param="stream")
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
            tell=tell,
            choices=integer(body, "n", 1, 1, self._config.slots),
            grammar=self._loaded.grammars.read(body),
            salt=read_salt(body),
        )
        # By the scheduler's own measure: what passes here must fit when it is alone.
        self._loaded.memory.check(horizon(request, 0), len(tokens), request.choices)
        return request

    def _sampling(self, loaded: Loaded, body: dict[str, Any]) -> Sampling:
        sampling = read_sampling(body, loaded.vocabulary)
        if body.get("ignore_eos") is not True:
            return sampling
        never = dict.fromkeys(loaded.ends, -math.inf)
        return replace(sampling, logit_bias=sampling.logit_bias | never)

    def _numbers(self, scheduler: Scheduler) -> dict[str, Any]:
        return {
            **vars(scheduler.numbers),
            "running": scheduler.running,
            "waiting": scheduler.waiting,
            "slots": self._config.slots,
            "prefix_queries": scheduler.prefixes.queries,
            "prefix_hits": scheduler.prefixes.hits,
            "prefix_bytes": scheduler.prefixes.bytes,
        }


class _Stream:
    """One answer on its way out.

    Events are written where they are delivered: waking a task for each token of each request costs
    more than all the rest, and the generation thread waits for Python's lock meanwhile. What a
    client does not read is kept, an answer at most.
    """

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.over = asyncio.Event()
        self.renderer: Renderer | None = None
        self._writer = writer

    def tell(self, event: Event) -> None:
        """Write an event; called on the loop, after the request was submitted."""
        assert self.renderer is not None  # noqa: S101 - set before that
        if self.over.is_set():
            return
        if data := self.renderer.render(event):
            self._writer.write(http.chunk(data))
        if self.renderer.done:
            self._writer.write(http.STREAM_END)
            self.over.set()


async def _answer_whole(
    answer: Awaitable[dict[str, Any]], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Write an answer when it is there, unless the client goes before."""
    working = asyncio.ensure_future(answer)
    gone = asyncio.create_task(_tell_when_gone(reader, asyncio.Event()))
    await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
    gone.cancel()
    if working.done():
        writer.write(http.answer(200, working.result()))
    else:
        working.cancel()


async def _tell_when_gone(reader: asyncio.StreamReader, over: asyncio.Event) -> None:
    """Wait for the end of what the client sends; it has nothing more to say."""
    with contextlib.suppress(OSError):
        while await reader.read(4096):
            pass
    over.set()
