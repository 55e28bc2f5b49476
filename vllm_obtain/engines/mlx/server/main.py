"""The server process: HTTP on the main thread, the model on another; it ends when either ends."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import traceback

from .config import Config
from .embeddings import Embedder
from .handlers import RequestHandlers
from .model_loader import load
from .scheduler import RequestEvents, Scheduler
from .warmup import warmup_requests

# The HTTP thread needs the GIL after each write, while the other thread builds graphs. With
# Python's default of 5 ms, the tokens of a step for eight clients took over 40 ms to send.
SWITCH_SECONDS = 0.0005


def main() -> None:
    """Serve until killed."""
    asyncio.run(_serve(Config.read(sys.argv[1])))


async def _serve(config: Config) -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
    service = RequestHandlers(config)
    loop = asyncio.get_running_loop()
    server = await asyncio.start_unix_server(service.serve, config.socket, backlog=1024)
    threading.Thread(target=_generate, args=(config, service, loop), daemon=True).start()
    await server.serve_forever()


def _generate(config: Config, service: RequestHandlers, loop: asyncio.AbstractEventLoop) -> None:
    def deliver(events: RequestEvents) -> None:
        loop.call_soon_threadsafe(service.deliver, events)

    try:
        if config.kind == "embedding":
            embedder = Embedder(config)
            loop.call_soon_threadsafe(service.embed, embedder)
            embedder.run()
        loaded = load(config)
        # A garbage collection over all modules of transformers would pause every stream.
        gc.collect()
        gc.freeze()
        scheduler = Scheduler(loaded, config, deliver)
        for wave in warmup_requests(config):
            scheduler.warm_up(wave)
        loop.call_soon_threadsafe(service.ready, loaded, scheduler)
        scheduler.run()
    except BaseException:
        traceback.print_exc()
    finally:
        # Without this, HTTP would continue to answer /health without a model.
        sys.stdout.flush()
        os._exit(1)
