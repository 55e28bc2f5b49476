"""Stands in front of a real engine's socket and notes when requests come and first texts leave.

    python tap.py SOCKET INNER LOG COMMAND…

The engine's own time to first token varies by a hundred times what the gateway adds. Both sides
of a comparison pass through here, so what happens behind this point can be subtracted request by
request. Standard library only; COMMAND is the engine, which listens on INNER. A line of LOG is a
request's number (the first word of its last message) and its seconds to first text.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from typing import TextIO

_NUMBER = re.compile(rb"user\\n(\d+) ")
_TEXT = re.compile(rb'"text":"[^"]')
READ_BYTES = 65536


class Tap:
    """Relays connections.

    Args:
        inner: the engine's socket.
        log: where times are written.
    """

    def __init__(self, inner: str, log: TextIO) -> None:
        self._inner = inner
        self._log = log

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection in both directions."""
        try:
            engine_reader, engine_writer = await asyncio.open_unix_connection(self._inner)
        except OSError:
            writer.close()  # the engine is not there yet
            return
        asking = asyncio.create_task(self._forth(reader, engine_writer, asked := bytearray()))
        with contextlib.suppress(OSError):
            await self._back(engine_reader, writer, asked)
        asking.cancel()
        engine_writer.close()
        writer.close()

    async def _forth(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: bytearray
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                asked += data
                writer.write(data)
        writer.close()  # the client left: so do we, and the engine stops

    async def _back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: bytearray
    ) -> None:
        began, seen = time.monotonic(), bytearray()
        waiting = True
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            if waiting:
                seen += data
                waiting = not _TEXT.search(seen)
                if not waiting and (number := _NUMBER.search(asked)):
                    print(int(number[1]), time.monotonic() - began, file=self._log, flush=True)


async def main() -> int:
    """Start the engine, relay until it ends."""
    path, inner, log, *command = sys.argv[1:]
    engine = await asyncio.create_subprocess_exec(*command)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, engine.terminate)
    with open(log, "a") as file:  # noqa: PTH123 - pathlib would be one more import
        server = await asyncio.start_unix_server(Tap(inner, file).relay, path, backlog=1024)
        status = await engine.wait()
        server.close()
    return status


if __name__ == "__main__":
    os._exit(abs(asyncio.run(main())))
