"""A control socket with a supervisor's parts behind it, and a client for tests."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.supervisor.helpers import settings_for, turn
from vllm_obtain.control import messages
from vllm_obtain.control.framing import FrameDecoder, frame
from vllm_obtain.supervisor.control_server import ControlSession
from vllm_obtain.supervisor.main import fresh_catalogue
from vllm_obtain.supervisor.state import SupervisorState


class Peer:
    """A client of the control socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = FrameDecoder()

    def send(self, message: messages.Message) -> None:
        self.send_bytes(frame(message))

    def send_bytes(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self) -> Any:
        while True:
            data = await self._reader.read(65536)
            if not data:
                return None
            for body in self._frames.feed(data):
                return messages.decode_reply(body)

    async def ask(self, message: messages.Message) -> Any:
        self.send(message)
        return await self.receive()

    def close(self) -> None:
        self._writer.close()


class ControlServer:
    """A desk behind a socket."""

    def __init__(self, desk: SupervisorState, path: Path) -> None:
        self.desk = desk
        self._path = path
        self._peers: list[Peer] = []

    async def peer(self) -> Peer:
        made = Peer(*await asyncio.open_unix_connection(str(self._path)))
        self._peers.append(made)
        return made

    def close(self) -> None:
        for peer in self._peers:
            peer.close()


@contextlib.asynccontextmanager
async def run_control_server(
    models: Path, runtime: Path, **env: Any
) -> AsyncIterator[ControlServer]:
    settings = settings_for(models, **env)
    desk = SupervisorState(settings, fresh_catalogue(settings), runtime, "v1")
    desk.has_scanned.set()
    path = runtime / "control.sock"
    server = await asyncio.get_running_loop().create_unix_server(lambda: ControlSession(desk), path)
    control = ControlServer(desk, path)
    try:
        yield control
    finally:
        server.close()
        control.close()
        await turn()
        await desk.pool.close()
        desk.sampler.close()
        path.unlink(missing_ok=True)
