"""The process: HTTP on the main thread, the model on another; it ends when either does."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import threading
import traceback

from .config import Config
from .embed import Embedder
from .load import load
from .rehearsal import rehearsal
from .scheduler import Scheduler, Told
from .service import Service

# HTTP's thread needs Python's lock anew after each write, while the other one builds graphs: with
# Python's own 5 ms a step's tokens for eight clients went out over 40 ms.
SWITCH_SECONDS = 0.0005


def main() -> None:
    """Serve until killed."""
    asyncio.run(_serve(Config.read(sys.argv[1])))


async def _serve(config: Config) -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
    service = Service(config)
    loop = asyncio.get_running_loop()
    server = await asyncio.start_unix_server(service.serve, config.socket, backlog=1024)
    threading.Thread(target=_generate, args=(config, service, loop), daemon=True).start()
    await server.serve_forever()


def _generate(config: Config, service: Service, loop: asyncio.AbstractEventLoop) -> None:
    def deliver(told: Told) -> None:
        loop.call_soon_threadsafe(service.deliver, told)

    try:
        if config.kind == "embedding":
            embedder = Embedder(config)
            loop.call_soon_threadsafe(service.embed, embedder)
            embedder.run()
        loaded = load(config)
        # A collection that walks all of transformers is a pause in every stream.
        gc.collect()
        gc.freeze()
        scheduler = Scheduler(loaded, config, deliver)
        for wave in rehearsal(config):
            scheduler.rehearse(wave)
        loop.call_soon_threadsafe(service.ready, loaded, scheduler)
        scheduler.run()
    except BaseException:
        traceback.print_exc()
    finally:
        # HTTP that lives on without a model would answer /health for ever.
        sys.stdout.flush()
        os._exit(1)
