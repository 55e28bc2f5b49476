"""The old master's part: it starts the new version and leaves when that one serves, or stays.

gunicorn's own answer to SIGUSR2 is not used: its new master takes requests before its engines are
loaded and does not know when the old one may go; the first process ends, which systemd takes for
the end of the service.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from vllm_obtain import log
from vllm_obtain.api.moving import HOLD, LEAVE, RELAY
from vllm_obtain.draining import Drain
from vllm_obtain.errors import ServiceError
from vllm_obtain.hardware import describe, device
from vllm_obtain.messages import Done, Load, Status, StatusReply, Stop, Unload
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor import fitting, runtime
from vllm_obtain.supervisor.client import Line, Supervisor
from vllm_obtain.supervisor.owners import started
from vllm_obtain.supervisor.states import State
from vllm_obtain.upgrading import channel, news, room, shell
from vllm_obtain.upgrading.phase import OVER, Phase
from vllm_obtain.upgrading.spawning import spawn

_log = log.get_logger("vllm_obtain.upgrade")

INTERVAL = 0.2
# Seconds for a start, beyond what loading models may take, and for the end of one that failed.
START = 120.0
END = 10.0


class _Stays(Exception):
    """The new version does not serve; says why."""


class Outgoing:
    """The replacement of one gunicorn master.

    Args:
        server: gunicorn's arbiter.
        settings: the owner's.
        drain: what answers SIGTERM otherwise.
    """

    def __init__(self, server: Any, settings: Settings, drain: Drain) -> None:
        self._server = server
        self._settings = settings
        self._drain = drain
        self._phase = Phase(settings.port, os.getpid())
        self._workers = server.num_workers
        self._version = runtime.version(settings)
        self._new = 0
        # Whether requests wait, and which models had to make room.
        self._held = False
        self._unloaded: list[str] = []
        # Whether the new version has our supervisor.
        self._shared = False
        self._under_way = False
        # Whether somebody has asked for the end of the service, whichever version serves.
        self._over = False
        # Whether the new version was told already, not by us.
        self._knows = False
        # What the main thread shall do next; gunicorn's objects are its own.
        self._next = ""

    def install(self) -> None:
        """Answer gunicorn's signals from now on."""
        self._server.handle_usr2 = self._begin
        self._server.handle_winch = self._step
        for name in ("term", "int", "quit"):
            setattr(self._server, f"handle_{name}", self._ending(name))
        self._server.outgoing = self
        news.write(self._settings.port, "idle")

    def _begin(self) -> None:
        if self._under_way:
            _log.info("an upgrade is under way already")
            return
        self._under_way = True
        threading.Thread(target=self._run, daemon=True).start()

    def _ending(self, name: str) -> Any:
        """Make the answer to a signal that ends the service: it means the new version too."""
        before = getattr(self._server, f"handle_{name}")

        def end() -> None:
            # Our own SIGTERM, when all is finished here, is not for the new version.
            if self._runs() and not self._drain.over and not self._knows:
                os.kill(self._new, getattr(signal, f"SIG{name.upper()}"))
            self._over, self._knows = True, False
            if not self._new:
                self._phase.tell(OVER)
            before()

        return end

    def _run(self) -> None:
        # gunicorn's master writes no log of ours otherwise, nor do its children depend on it.
        log.configure(self._settings, "gateway")
        try:
            self._take_over()
        except (_Stays, ServiceError, OSError) as error:
            self._stay(getattr(error, "message", str(error)))
        except Exception:
            _log.exception("an upgrade failed unforeseen")
            self._stay("It failed unforeseen; errors.log has the details.")

    def _take_over(self) -> None:
        self._tell("Starting the new version…")
        status = Supervisor(self._settings, os.getpid()).ask(Status(), StatusReply)
        ours, theirs = socket.socketpair()
        line = channel.Line(ours)
        try:
            with theirs:
                self._new = self._spawn(status, theirs.fileno())
            self._server.reexec_pid = self._new
            _log.info("the new version starts", pid=self._new)
            self._follow(line, ours.fileno())
        finally:
            line.close()
        runtime.end_service(self._settings.port)
        _log.info("the new version serves", pid=self._new)
        self._phase.tell(RELAY if self._held else LEAVE)
        self._wake("retire")
        self._leave()

    def _spawn(self, status: StatusReply, line: int) -> int:
        sockets = [listener.sock.fileno() for listener in self._server.LISTENERS]
        on_gpu = fitting.on_own_gpu(describe(), device(self._settings.device_type))
        serving = (State.READY, State.STARTING, State.CRASHED)
        before = channel.Predecessor(
            version=self._version,
            place=os.environ.get(runtime.PLACE, ""),
            models=sorted({each.model for each in status.engines if each.state in serving}),
            beside=room.is_for_two(status, on_gpu),
            line=channel.FIRST + len(sockets),
        )
        environ = {
            **self._server.cfg.env_orig,
            # They are kept: the sockets are.
            **{name: os.environ[name] for name in ("HOST", "PORT") if name in os.environ},
            channel.SUCCEEDS: msgspec.json.encode(before).decode(),
            channel.SHELL: "1",
        }
        folder = self._server.START_CTX["cwd"]
        return spawn(folder, sys.argv, environ, sockets, line)

    def _follow(self, line: channel.Line, descriptor: int) -> None:
        """Do what the new version asks for until it serves."""
        patience = START + self._settings.load_timeout * self._settings.max_concurrent_models
        while True:
            try:
                heard = line.hear(patience)
            except TimeoutError:
                raise _Stays(f"It was not ready within {patience:.0f} seconds.") from None
            word, _, rest = (heard or "").partition(" ")
            if word == channel.READY:
                self._shared = rest == self._version
                return
            if word == channel.HOLD:
                self._make_room()
                channel.say(descriptor, channel.CLEAR)
            elif word == channel.FAILED:
                raise _Stays(rest)
            else:
                raise _Stays("It ended before it was ready; its output says why.")

    def _make_room(self) -> None:
        """Let requests wait, finish those that run, and unload all models."""
        self._tell("Too little memory for both: requests wait while the models are loaded anew…")
        self._held = True
        self._phase.tell(HOLD)
        supervisor = Supervisor(self._settings, os.getpid())
        end = time.monotonic() + self._settings.request_timeout
        time.sleep(3 * INTERVAL)  # workers look at the phase as often
        while True:
            status = supervisor.ask(Status(), StatusReply)
            if not status.in_flight:
                break
            if time.monotonic() > end:
                raise _Stays("Requests ran longer than REQUEST_TIMEOUT; there was no room.")
            time.sleep(INTERVAL)
        self._unloaded = [each.model for each in status.engines if each.pid is not None]
        for model in self._unloaded:
            supervisor.ask(Unload(model), Done, self._settings.request_timeout)

    def _stay(self, reason: str) -> None:
        """Go on as if nothing had been."""
        self._end_new()
        self._phase.tell("")
        _log.error("not upgraded", reason=reason)
        told = f"The new version does not serve, and this one goes on: {reason}"
        if self._held:
            self._load_again()
        self._new, self._held, self._under_way = 0, False, False
        news.write(self._settings.port, "failed", told)

    def _load_again(self) -> None:
        supervisor = Supervisor(self._settings, os.getpid())
        for model in self._unloaded:
            with contextlib.suppress(ServiceError):  # a request that wants it will hear of it
                supervisor.ask(Load(model, False), Done)

    def _end_new(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._new and self._runs():
                with contextlib.suppress(OSError):
                    os.kill(self._new, number)
                end = time.monotonic() + END
                while self._runs() and time.monotonic() < end:
                    time.sleep(INTERVAL)

    def _runs(self) -> bool:
        """Whether the new master lives; gunicorn collects it and forgets its pid then."""
        return bool(self._new and self._server.reexec_pid) and started(self._new) is not None

    def _leave(self) -> None:
        """Wait until all is finished here; come back if the new version ends before."""
        while self._next or self._server.WORKERS:
            if not self._over and self._is_told():
                self._over = self._knows = True
                os.kill(os.getpid(), signal.SIGTERM)
            if not self._runs() and not self._over:
                _log.error("the new version has ended; the one before serves again")
                self._wake("return")
                return
            time.sleep(INTERVAL)
        if not self._shared:
            self._end_supervisor()
        self._phase.tell("")
        self._wake("end")

    def _is_told(self) -> bool:
        """Whether somebody has asked the new version to end, as `vllm-obtain stop` does."""
        phases = [Phase(self._settings.port, self._new, place) for place in runtime.PLACES]
        return any(phase.read() == OVER for phase in phases)

    def _end_supervisor(self) -> None:
        """Have our supervisor leave: this process stays, and it would wait for the end of that."""
        control = runtime.folder(self._settings.port) / runtime.CONTROL
        with contextlib.suppress(OSError), Line(control) as line:
            line.send(Stop())
            line.socket.settimeout(END)
            while line.socket.recv(4096):
                pass

    def _wake(self, todo: str) -> None:
        self._next = todo
        self._server.SIG_QUEUE.put_nowait(signal.SIGWINCH)

    def _step(self) -> None:
        """Do what the thread asked for; a terminal's SIGWINCH asks for nothing."""
        todo, self._next = self._next, ""
        if todo == "retire":
            # The sockets stay open here: should the new version end, they are served again.
            self._server.num_workers = 0
        elif todo == "return":
            self._phase.tell("")
            runtime.begin_service(self._settings.port, beside=True)
            self._server.num_workers = self._workers
            self._stay("It ended soon after it had taken over.")
        elif todo == "end":
            raise StopIteration  # gunicorn's word for the end

    def become_shell(self) -> None:
        """Go on as the process that whoever started the service looks at, if it still runs.

        Called as the last thing before this process ends.
        """
        if os.environ.get(channel.SHELL) or not self._runs():
            return
        folders = [runtime.folder(self._settings.port, place) for place in runtime.PLACES]
        # A signal that comes meanwhile is passed on by who comes.
        signal.pthread_sigmask(signal.SIG_BLOCK, shell.PASSED_ON)
        sys.stdout.flush()
        command = [sys.executable, "-I", str(Path(shell.__file__))]
        files = [str(each / runtime.SERVICE) for each in folders]
        os.execv(sys.executable, [*command, *files])  # noqa: S606 - our own interpreter, no shell

    def _tell(self, what: str) -> None:
        _log.info(what)
        news.write(self._settings.port, "under way", what)
