"""A proxy in front of an engine's socket that measures the engine's own TTFT.

    python timing_proxy.py SOCKET INNER LOG COMMAND…

The engine's own TTFT varies by a hundred times what the gateway adds. Requests of both sides of a
comparison pass this proxy, so the time behind it can be subtracted request by request. Standard
library only. COMMAND is the engine, which listens on INNER. A line of LOG is the number of a
request (the first word of its last message) and its TTFT in seconds.
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


class TimingProxy:
    """Forwards connections.

    Args:
        inner: the engine's socket.
        log: file for the times.
    """

    def __init__(self, inner: str, log: TextIO) -> None:
        self._inner = inner
        self._log = log

    async def forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward one connection in both directions."""
        try:
            engine_reader, engine_writer = await asyncio.open_unix_connection(self._inner)
        except OSError:
            writer.close()  # the engine does not listen yet
            return
        request = bytearray()
        upload = asyncio.create_task(self._send(reader, engine_writer, request))
        with contextlib.suppress(OSError):
            await self._receive(engine_reader, writer, request)
        upload.cancel()
        engine_writer.close()
        writer.close()

    async def _send(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytearray
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                request += data
                writer.write(data)
        writer.close()  # the client disconnected: disconnect too, so that the engine stops

    async def _receive(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytearray
    ) -> None:
        start, response = time.monotonic(), bytearray()
        waiting = True
        while data := await reader.read(READ_BYTES):
            writer.write(data)
            if waiting:
                response += data
                waiting = not _TEXT.search(response)
                if not waiting and (number := _NUMBER.search(request)):
                    print(int(number[1]), time.monotonic() - start, file=self._log, flush=True)


async def main() -> int:
    """Start the engine and forward connections until it exits."""
    path, inner, log, *command = sys.argv[1:]
    engine = await asyncio.create_subprocess_exec(*command)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, engine.terminate)
    with open(log, "a") as file:  # noqa: PTH123 - pathlib would be one more import
        proxy = TimingProxy(inner, file)
        server = await asyncio.start_unix_server(proxy.forward, path, backlog=1024)
        status = await engine.wait()
        server.close()
    return status


if __name__ == "__main__":
    os._exit(abs(asyncio.run(main())))
