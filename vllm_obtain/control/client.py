"""Client of the control socket, used by the gateway. Blocking calls, cooperative under gevent."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from vllm_obtain.config.settings import SECRETS, Settings
from vllm_obtain.control import messages, runtime_dir
from vllm_obtain.control.framing import FrameDecoder, frame
from vllm_obtain.control.owners import start_time
from vllm_obtain.control.stale_instances import is_same
from vllm_obtain.errors import ServiceError
from vllm_obtain.fs import try_lock
from vllm_obtain.gevent_compat import peer_closed, send_all, set_read_priority

START_TIMEOUT = 20.0
# Idle connections that are kept for later leases.
MAX_IDLE_CONNECTIONS = 64
# The holder of the lock may wait for an old supervisor to end before it starts one.
LOCK_TIMEOUT = 60.0
# Retries of `SupervisorClient.request` after the supervisor ended: a new one is started.
REQUEST_TRIES = 3
RETRY_PAUSE = 0.1

_SECRETS = {name.upper() for name in SECRETS}
R = TypeVar("R", bound=messages.Message)


class SupervisorLost(ServiceError):
    """The supervisor ended and could not be restarted."""

    status = 503
    code = "supervisor_unavailable"
    # As in `EngineConnectionLost`.
    process = 0.0


class ControlConnection:
    """One connection to the supervisor.

    Args:
        path: the control socket.
    """

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        set_read_priority(self.socket)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self._frames = FrameDecoder()
        self.closed = False

    def send(self, message: messages.Message) -> None:
        """Send a message without waiting for a reply."""
        send_all(self.socket, frame(message))

    def request(self, message: messages.Message, reply: type[R], timeout: float | None = None) -> R:
        """Send a message and wait for its reply.

        Args:
            message: the message.
            reply: the expected type of the reply.
            timeout: seconds to wait, None for no limit.

        Raises:
            ServiceError: the supervisor replied with an error.
            TimeoutError: no reply arrived in time.
            OSError: the connection broke.
        """
        received = self.converse(message, timeout)
        if not isinstance(received, reply):
            raise ConnectionError(f"unexpected reply {type(received).__name__}")
        return received

    def converse(self, message: messages.Message, timeout: float | None = None) -> messages.Reply:
        """Like `request`, for a message with several types of reply."""
        self.socket.settimeout(timeout)
        self.send(message)
        return self.receive(timeout)

    def receive(self, timeout: float | None = None) -> messages.Reply:
        """Wait for the reply to a message that was sent. It can be called again after a timeout.

        Args:
            timeout: seconds to wait, None for no limit.

        Raises:
            ServiceError, TimeoutError, OSError: as in `request`.
        """
        self.socket.settimeout(timeout)
        while True:
            received = self.socket.recv(65536)
            if not received:
                raise ConnectionResetError("the supervisor closed the connection")
            for body in self._frames.feed(received):
                reply = _decode_reply(body)
                if isinstance(reply, messages.ErrorReply):
                    raise reply.error()
                return reply

    @property
    def is_open(self) -> bool:
        """Whether both sides still have the connection open. The supervisor only sends replies."""
        return not self.closed and peer_closed(self.socket) is False

    def close(self) -> None:
        """Close the connection, which releases its lease and its cache entry."""
        self.closed = True
        self.socket.close()

    def interrupt(self) -> None:
        """End a wait for a reply in another greenlet or thread, and the use of the connection."""
        self.closed = True
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> ControlConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class SupervisorClient:
    """Client of one instance's supervisor. Starts the supervisor if it is not running.

    Args:
        settings: the service's settings; PORT identifies the instance.
        owner: pid of the process that keeps the supervisor running.
    """

    def __init__(self, settings: Settings, owner: int) -> None:
        self._settings = settings
        self._owner = owner
        self._version = runtime_dir.version(settings)
        self._folder = runtime_dir.folder(settings.port)
        self._idle: list[ControlConnection] = []
        # The last lease of each model, by its name: a guess at the engine of the next request.
        self.granted: dict[str, messages.LeaseGranted] = {}

    def connection(self) -> ControlConnection:
        """Open a connection; starts the supervisor if it is not running.

        Raises:
            SupervisorLost: the supervisor does not start.
        """
        try:
            return ControlConnection(self._folder / runtime_dir.CONTROL)
        except OSError:
            self.ensure_running()
        try:
            return ControlConnection(self._folder / runtime_dir.CONTROL)
        except OSError as error:
            raise SupervisorLost(
                "The supervisor does not respond. See app.log and errors.log in LOG_DIR.",
                retry_after=2,
            ) from error

    @contextlib.contextmanager
    def lease_connection(self) -> Iterator[ControlConnection]:
        """Provide a connection for one lease. It is reused after a block without an exception.

        Raises:
            SupervisorLost: as in `connection`.
        """
        connection = self._idle_connection() or self.connection()
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if not connection.closed and len(self._idle) < MAX_IDLE_CONNECTIONS:
            self._idle.append(connection)
        else:
            connection.close()

    def request(self, message: messages.Message, reply: type[R], timeout: float | None = 10.0) -> R:
        """Send one message on a new connection, and retry if the supervisor ends meanwhile.

        Args:
            message: the message.
            reply: the expected type of reply.
            timeout: seconds to wait for the reply, None for no limit.

        Raises:
            ServiceError: the supervisor replied with an error, or is not available.
        """
        attempts = 0
        while True:
            attempts += 1
            try:
                with self.connection() as connection:
                    return connection.request(message, reply, timeout)
            except ConnectionError as error:
                if attempts == REQUEST_TRIES:
                    raise _connection_lost(error) from error
                time.sleep(RETRY_PAUSE)
            except OSError as error:
                raise _connection_lost(error) from error

    def ensure_running(self, replace: bool = False) -> None:
        """Start the supervisor unless it is running, and register the owner.

        Args:
            replace: whether a supervisor of another version is replaced. True when a gateway
                starts. A running gateway keeps its supervisor, even if the files have changed.

        Raises:
            SupervisorLost: the supervisor cannot be started.
        """
        folder = runtime_dir.prepare(self._settings.port)
        with _lock(folder.with_suffix(runtime_dir.START_LOCK)):
            # A cleanup of stale instances may have removed the folder in between.
            runtime_dir.prepare(self._settings.port)
            if not self._register(replace):
                self._start()
                if not self._register(replace=False):
                    raise SupervisorLost("The supervisor did not start. See app.log.")

    def ping(self, timeout: float) -> int | None:
        """Ask the running supervisor for a sign of life, and give one of this worker.

        Args:
            timeout: seconds to wait for the reply.

        Returns:
            Its pid; None if it did not reply in time.
        """
        try:
            with ControlConnection(self._folder / runtime_dir.CONTROL) as connection:
                beat = replace(self._registration(), worker_pid=os.getpid())
                return connection.request(beat, messages.OwnerRegistered, timeout).pid
        except (OSError, ServiceError):
            return None

    def _idle_connection(self) -> ControlConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
            connection.close()
        return None

    def _register(self, replace: bool) -> bool:
        """Register with the running supervisor, or stop one of another version."""
        try:
            with ControlConnection(self._folder / runtime_dir.CONTROL) as connection:
                reply = connection.request(self._registration(), messages.OwnerRegistered, 10)
                if reply.version == self._version or not replace:
                    return True
                connection.send(messages.StopSupervisor())
                connection.socket.settimeout(10)
                while connection.socket.recv(4096):
                    pass
        except (OSError, ServiceError):
            pass
        return False

    def _registration(self) -> messages.RegisterOwner:
        return messages.RegisterOwner(self._version, self._owner, _start_time(self._owner))

    def _start(self) -> None:
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        # All settings, from whatever source, but no API keys: engines inherit this environment and
        # must not have them.
        inherited = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        env = {**inherited, **self._settings.environ(), "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-m", "vllm_obtain.supervisor"]
        owner = [str(self._owner), repr(_start_time(self._owner))]
        try:
            subprocess.run([*command, *owner], env=env, check=True, timeout=START_TIMEOUT)
        except (OSError, subprocess.SubprocessError) as error:
            raise SupervisorLost(f"The supervisor did not start: {error}. See app.log.") from error


def _connection_lost(error: OSError) -> SupervisorLost:
    return SupervisorLost(
        f"The connection to the supervisor broke: {error}. Try again.", retry_after=1
    )


def _decode_reply(body: bytes) -> messages.Reply:
    try:
        return messages.decode_reply(body)
    except ValueError as error:  # raised by msgspec, also for invalid UTF-8
        raise ConnectionError(f"invalid reply: {error}") from error


def _start_time(pid: int) -> float:
    return start_time(pid) or 0.0


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold a lock file. Polls, since a blocking flock would stop every greenlet."""
    end = time.monotonic() + LOCK_TIMEOUT
    while True:
        with path.open("w") as file:
            if try_lock(file.fileno()) and is_same(file.fileno(), path):
                yield
                return
        if time.monotonic() > end:
            raise SupervisorLost(
                f"Timed out waiting for the lock {path}. Another start may be stuck: check for a "
                "running `vllm-obtain` process."
            ) from None
        time.sleep(0.02)
