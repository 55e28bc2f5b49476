"""The gateway's side of the control socket. Blocking calls, which gevent makes cooperative."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from vllm_obtain import messages
from vllm_obtain.cooperative import has_ended, serve_first
from vllm_obtain.errors import ServiceError
from vllm_obtain.settings import SECRETS, Settings
from vllm_obtain.supervisor import runtime
from vllm_obtain.supervisor.leftovers import is_same
from vllm_obtain.supervisor.owners import started
from vllm_obtain.supervisor.wire import Frames, frame

START_TIMEOUT = 20.0
# Connections kept open between two leases; more than run at once on most machines.
SPARE_LINES = 64
# Whoever holds the lock may be waiting for an old supervisor to end, before it starts one.
LOCK_TIMEOUT = 60.0
# A question that is no request: a supervisor that ends under it has one that follows.
ASK_TRIES = 3
ASK_PAUSE = 0.1

_SECRETS = {name.upper() for name in SECRETS}
_decode = msgspec.msgpack.Decoder(messages.Reply).decode
R = TypeVar("R", bound=messages.Message)


class SupervisorLost(ServiceError):
    """The supervisor is gone and could not be started again."""

    status = 503
    code = "supervisor_unavailable"
    # As with `EngineLost`.
    midway = False


class Line:
    """One connection to the supervisor.

    Args:
        path: the control socket.
    """

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        serve_first(self.socket)
        try:
            self.socket.connect(str(path))
        except OSError:
            self.socket.close()
            raise
        self._frames = Frames()

    def send(self, message: messages.Message) -> None:
        """Send a message that has no answer."""
        self.socket.sendall(frame(message))

    def ask(self, message: messages.Message, reply: type[R], timeout: float | None = None) -> R:
        """Send a message and wait for its answer.

        Args:
            message: the question.
            reply: the answer's type.
            timeout: seconds to wait, None for ever.

        Raises:
            ServiceError: the supervisor refused.
            TimeoutError: no answer came in time.
            OSError: the connection broke.
        """
        answer = self.converse(message, timeout)
        if not isinstance(answer, reply):
            raise ConnectionError(f"unexpected answer {type(answer).__name__}")
        return answer

    def converse(self, message: messages.Message, timeout: float | None = None) -> messages.Reply:
        """Like `ask`, for a message with several kinds of answer."""
        self.socket.settimeout(timeout)
        self.send(message)
        return self.hear(timeout)

    def hear(self, timeout: float | None = None) -> messages.Reply:
        """Wait for the answer to a message that was sent; after a timeout it may still come.

        Args:
            timeout: seconds to wait, None for ever.

        Raises:
            ServiceError, TimeoutError, OSError: as `ask` does.
        """
        self.socket.settimeout(timeout)
        while True:
            received = self.socket.recv(65536)
            if not received:
                raise ConnectionResetError("the supervisor closed the connection")
            for body in self._frames.feed(received):
                answer = _read(body)
                if isinstance(answer, messages.Refused):
                    raise answer.error()
                return answer

    @property
    def is_open(self) -> bool:
        """Whether the supervisor still holds the other end; it never speaks first."""
        return has_ended(self.socket) is False

    def close(self) -> None:
        """Close; gives back what the connection held."""
        self.socket.close()

    def interrupt(self) -> None:
        """Make a wait in another greenlet or thread end at once."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Supervisor:
    """The supervisor of one instance, started when it does not answer.

    Args:
        settings: the owner's settings; the port names the instance.
        owner: pid of the process whose end is the supervisor's end.
    """

    def __init__(self, settings: Settings, owner: int) -> None:
        self._settings = settings
        self._owner = owner
        self._version = runtime.version(settings)
        self._folder = runtime.folder(settings.port)
        self._spare: list[Line] = []
        # The last lease of each model by its name: who will most likely serve it next.
        self.granted: dict[str, messages.Granted] = {}

    def line(self) -> Line:
        """Open a connection, starting the supervisor if it is gone.

        Raises:
            SupervisorLost: it does not come up.
        """
        try:
            return Line(self._folder / runtime.CONTROL)
        except OSError:
            self.ensure_running()
        try:
            return Line(self._folder / runtime.CONTROL)
        except OSError as error:
            raise SupervisorLost(
                "The supervisor does not answer; see app.log and errors.log under LOG_DIR.",
                retry_after=2,
            ) from error

    @contextlib.contextmanager
    def lease_line(self) -> Iterator[Line]:
        """Hold a connection for one lease; one that ended well serves the next.

        Raises:
            SupervisorLost: as `line` does.
        """
        line = self._spare_line() or self.line()
        try:
            yield line
        except BaseException:
            line.close()
            raise
        if len(self._spare) < SPARE_LINES:
            self._spare.append(line)
        else:
            line.close()

    def ask(self, message: messages.Message, reply: type[R], timeout: float | None = 10.0) -> R:
        """Ask one question on a connection of its own; again if the supervisor ends meanwhile.

        Raises:
            ServiceError: the supervisor refused, or is gone.
        """
        tries = 0
        while True:
            tries += 1
            try:
                with self.line() as line:
                    return line.ask(message, reply, timeout)
            except ConnectionError as error:
                if tries == ASK_TRIES:
                    raise _broken_off(error) from error
                time.sleep(ASK_PAUSE)
            except OSError as error:
                raise _broken_off(error) from error

    def ensure_running(self, replace: bool = False) -> None:
        """Start the supervisor unless it answers, and join as an owner.

        Args:
            replace: whether one that runs other code is replaced. Right when a gateway starts;
                one that lives already keeps to what runs, whatever became of the files.

        Raises:
            SupervisorLost: it cannot be started.
        """
        folder = runtime.prepare(self._settings.port)
        with _locked(folder.with_suffix(runtime.START_LOCK)):
            # Whoever clears up after dead services may have been there just before.
            runtime.prepare(self._settings.port)
            if not self._joined(replace):
                self._start()
                if not self._joined(replace=False):
                    raise SupervisorLost("The supervisor could not be started; see app.log.")

    def _spare_line(self) -> Line | None:
        while self._spare:
            line = self._spare.pop()
            if line.is_open:
                return line
            line.close()
        return None

    def _joined(self, replace: bool) -> bool:
        """Join the running supervisor, or tell one that runs other code to stop."""
        start = _start_time(self._owner)
        try:
            with Line(self._folder / runtime.CONTROL) as line:
                join = messages.Join(self._version, self._owner, start)
                if line.ask(join, messages.Welcome, 10).version == self._version or not replace:
                    return True
                line.send(messages.Stop())
                line.socket.settimeout(10)
                while line.socket.recv(4096):
                    pass
        except (OSError, ServiceError):
            pass
        return False

    def _start(self) -> None:
        root = str(Path(__file__).parents[2])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        # Every setting, so that it runs with ours wherever they came from; but no key: engines
        # inherit what it has, and none of them lets anybody in.
        kept = {name: value for name, value in os.environ.items() if name not in _SECRETS}
        env = {**kept, **self._settings.environ(), "PYTHONPATH": os.pathsep.join(paths)}
        command = [sys.executable, "-m", "vllm_obtain.supervisor"]
        owner = [str(self._owner), repr(_start_time(self._owner))]
        try:
            subprocess.run([*command, *owner], env=env, check=True, timeout=START_TIMEOUT)
        except (OSError, subprocess.SubprocessError) as error:
            raise SupervisorLost(f"The supervisor could not be started: {error}.") from error


def _broken_off(error: OSError) -> SupervisorLost:
    return SupervisorLost(f"The supervisor broke off: {error}. Try again.", retry_after=1)


def _read(body: bytes) -> messages.Reply:
    try:
        reply: messages.Reply = _decode(body)
    except ValueError as error:  # msgspec's errors are, and so is text that is not UTF-8
        raise ConnectionError(f"an answer cannot be read: {error}") from error
    return reply


def _start_time(pid: int) -> float:
    return started(pid) or 0.0


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock file; waits by polling, since flock would block every greenlet."""
    end = time.monotonic() + LOCK_TIMEOUT
    while True:
        with path.open("w") as file:
            if _taken(file.fileno()) and is_same(file.fileno(), path):
                yield
                return
        if time.monotonic() > end:
            raise SupervisorLost(f"Somebody holds {path}; is another start hung?") from None
        time.sleep(0.02)


def _taken(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
