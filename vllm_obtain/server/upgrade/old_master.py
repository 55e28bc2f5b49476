"""The old master's part of an upgrade: start the new version, leave when it serves requests.

gunicorn's own handler of SIGUSR2 is not used. Its new master accepts requests before the engines
are loaded, and the first process ends, which systemd takes for the end of the service.
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

from vllm_obtain.config.settings import Settings
from vllm_obtain.control import runtime_dir
from vllm_obtain.control.client import ControlConnection, SupervisorClient
from vllm_obtain.control.messages import (
    LoadModel,
    LoadStatus,
    Status,
    StatusReply,
    StopSupervisor,
    UnloadModel,
)
from vllm_obtain.control.owners import start_time
from vllm_obtain.errors import ServiceError
from vllm_obtain.gateway.middleware.upgrade_hold import HOLD, LEAVE, RELAY
from vllm_obtain.hardware.machine import describe, device
from vllm_obtain.logs import setup
from vllm_obtain.server.draining import Drain
from vllm_obtain.server.upgrade import channel, memory_check, pid_holder, status_file
from vllm_obtain.server.upgrade.phase import STOPPING, UpgradePhase
from vllm_obtain.server.upgrade.spawn import spawn
from vllm_obtain.supervisor.engine.states import EngineState
from vllm_obtain.supervisor.memory import estimate as memory_estimate

_log = setup.get_logger("vllm_obtain.upgrade")

INTERVAL = 0.2
# Seconds for the new version to start, without loading models, and to end after a failure.
START_SECONDS = 120.0
END_SECONDS = 10.0


class _UpgradeFailed(Exception):
    """The new version cannot serve requests; the message is the reason."""


class OldMaster:
    """Replaces a gunicorn master by a new version.

    Args:
        server: gunicorn's arbiter.
        settings: settings of the service.
        drain: handler of SIGTERM.
    """

    def __init__(self, server: Any, settings: Settings, drain: Drain) -> None:
        self._server = server
        self._settings = settings
        self._drain = drain
        self._phase = UpgradePhase(settings.port, os.getpid())
        self._workers = server.num_workers
        self._version = runtime_dir.version(settings)
        self._new = 0
        # Whether requests are held, and the models that were unloaded to free memory.
        self._requests_held = False
        self._unloaded: list[str] = []
        # Whether the new version shares the supervisor of this one.
        self._supervisor_shared = False
        self._running = False
        # Whether the service was told to stop, whichever version serves.
        self._stopping = False
        # Whether the new version has received the stop signal from another process.
        self._stop_forwarded = False
        # Next action of the main thread, which alone may use gunicorn's objects.
        self._next_action = ""

    def install(self) -> None:
        """Replace gunicorn's signal handlers."""
        self._server.handle_usr2 = self._start
        self._server.handle_winch = self._run_next_action
        for name in ("term", "int", "quit"):
            setattr(self._server, f"handle_{name}", self._stop_handler(name))
        self._server.old_master = self
        status_file.write(self._settings.port, "idle")

    def _start(self) -> None:
        if self._running:
            _log.info("upgrade ignored", reason="another upgrade is running")
            return
        self._running = True
        threading.Thread(target=self._run, daemon=True).start()

    def _stop_handler(self, name: str) -> Any:
        """Create the handler of a stop signal. It forwards the signal to the new version."""
        handler = getattr(self._server, f"handle_{name}")

        def stop() -> None:
            # The SIGTERM that ends draining concerns this version only.
            is_forwarded = self._drain.complete or self._stop_forwarded
            if self._is_new_running() and not is_forwarded:
                os.kill(self._new, getattr(signal, f"SIG{name.upper()}"))
            self._stopping, self._stop_forwarded = True, False
            if not self._new:
                self._phase.set(STOPPING)
            handler()

        return stop

    def _run(self) -> None:
        # The gunicorn master has no log of its own otherwise.
        setup.configure(self._settings, "gateway")
        try:
            self._upgrade()
        except (_UpgradeFailed, ServiceError, OSError) as error:
            self._abort(getattr(error, "message", str(error)))
        except Exception:
            _log.exception("upgrade crashed")
            self._abort("Unexpected error; errors.log has the details.")

    def _upgrade(self) -> None:
        self._report("Starting the new version…")
        status = SupervisorClient(self._settings, os.getpid()).request(Status(), StatusReply)
        own_end, new_end = socket.socketpair()
        connection = channel.MasterChannel(own_end)
        try:
            with new_end:
                self._new = self._spawn(status, new_end.fileno())
            self._server.reexec_pid = self._new
            _log.info("new version started", pid=self._new)
            self._serve_requests(connection, own_end.fileno())
        finally:
            connection.close()
        runtime_dir.end_service(self._settings.port)
        _log.info("new version activated", pid=self._new)
        self._phase.set(RELAY if self._requests_held else LEAVE)
        self._schedule("retire")
        self._leave()

    def _spawn(self, status: StatusReply, connection: int) -> int:
        sockets = [listener.sock.fileno() for listener in self._server.LISTENERS]
        on_gpu = memory_estimate.on_own_gpu(describe(), device(self._settings.device_type))
        serving = (EngineState.READY, EngineState.STARTING, EngineState.CRASHED)
        before = channel.Predecessor(
            version=self._version,
            place=os.environ.get(runtime_dir.PLACE, ""),
            models=sorted({engine.model for engine in status.engines if engine.state in serving}),
            beside=memory_check.fits_two_instances(status, on_gpu),
            line=channel.FIRST + len(sockets),
        )
        environ = {
            **self._server.cfg.env_orig,
            # The sockets are inherited, so the address cannot change.
            **{name: os.environ[name] for name in ("HOST", "PORT") if name in os.environ},
            channel.SUCCEEDS: msgspec.json.encode(before).decode(),
            channel.SHELL: "1",
        }
        folder = self._server.START_CTX["cwd"]
        return spawn(folder, sys.argv, environ, sockets, connection)

    def _serve_requests(self, connection: channel.MasterChannel, descriptor: int) -> None:
        """Handle the messages of the new version until it serves requests."""
        load_seconds = self._settings.load_timeout * self._settings.max_concurrent_models
        timeout = START_SECONDS + load_seconds
        while True:
            try:
                line = connection.receive(timeout)
            except TimeoutError:
                raise _UpgradeFailed(
                    f"The new version was not ready within {timeout:.0f} seconds."
                ) from None
            word, _, rest = (line or "").partition(" ")
            if word == channel.READY:
                self._supervisor_shared = rest == self._version
                return
            if word == channel.HOLD:
                self._free_memory()
                channel.send(descriptor, channel.CLEAR)
            elif word == channel.FAILED:
                raise _UpgradeFailed(rest)
            else:
                raise _UpgradeFailed(
                    "The new version ended before it was ready. Its output has the reason."
                )

    def _free_memory(self) -> None:
        """Hold new requests, wait for those in flight, and unload all models."""
        self._report("Not enough memory for both versions: requests wait while models reload…")
        self._requests_held = True
        self._phase.set(HOLD)
        supervisor = SupervisorClient(self._settings, os.getpid())
        end = time.monotonic() + self._settings.request_timeout
        time.sleep(3 * INTERVAL)  # until all workers have read the phase
        while True:
            status = supervisor.request(Status(), StatusReply)
            if not status.in_flight:
                break
            if time.monotonic() > end:
                raise _UpgradeFailed("Requests in flight did not finish within REQUEST_TIMEOUT.")
            time.sleep(INTERVAL)
        self._unloaded = [engine.model for engine in status.engines if engine.pid is not None]
        for model in self._unloaded:
            supervisor.request(UnloadModel(model), LoadStatus, self._settings.request_timeout)

    def _abort(self, reason: str) -> None:
        """End the new version and continue to serve."""
        self._end_new()
        self._phase.set("")
        _log.error("upgrade failed", reason=reason)
        message = f"Upgrade failed; the old version keeps serving. Reason: {reason}"
        if self._requests_held:
            self._reload_models()
        self._new, self._requests_held, self._running = 0, False, False
        status_file.write(self._settings.port, "failed", message)

    def _reload_models(self) -> None:
        supervisor = SupervisorClient(self._settings, os.getpid())
        for model in self._unloaded:
            with contextlib.suppress(ServiceError):  # the next request for it gets the error
                supervisor.request(LoadModel(model, False), LoadStatus)

    def _end_new(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._new and self._is_new_running():
                with contextlib.suppress(OSError):
                    os.kill(self._new, number)
                end = time.monotonic() + END_SECONDS
                while self._is_new_running() and time.monotonic() < end:
                    time.sleep(INTERVAL)

    def _is_new_running(self) -> bool:
        """Whether the new master runs. gunicorn clears `reexec_pid` when it has ended."""
        return bool(self._new and self._server.reexec_pid) and start_time(self._new) is not None

    def _leave(self) -> None:
        """Wait until the workers have ended. Serve again if the new version ends before."""
        while self._next_action or self._server.WORKERS:
            if not self._stopping and self._is_new_stopping():
                self._stopping = self._stop_forwarded = True
                os.kill(os.getpid(), signal.SIGTERM)
            if not self._is_new_running() and not self._stopping:
                _log.error("new version ended", action="the old version resumes service")
                self._schedule("return")
                return
            time.sleep(INTERVAL)
        if not self._supervisor_shared:
            self._end_supervisor()
        self._phase.set("")
        self._schedule("end")

    def _is_new_stopping(self) -> bool:
        """Whether the new version was told to stop, as `vllm-obtain stop` does."""
        phases = [
            UpgradePhase(self._settings.port, self._new, place) for place in runtime_dir.PLACES
        ]
        return any(phase.read() == STOPPING for phase in phases)

    def _end_supervisor(self) -> None:
        """Stop the old supervisor, which would otherwise run as long as this process."""
        control = runtime_dir.folder(self._settings.port) / runtime_dir.CONTROL
        with contextlib.suppress(OSError), ControlConnection(control) as connection:
            connection.send(StopSupervisor())
            connection.socket.settimeout(END_SECONDS)
            while connection.socket.recv(4096):
                pass

    def _schedule(self, action: str) -> None:
        self._next_action = action
        self._server.SIG_QUEUE.put_nowait(signal.SIGWINCH)

    def _run_next_action(self) -> None:
        """Run the scheduled action, if any; terminals send SIGWINCH too."""
        action, self._next_action = self._next_action, ""
        if action == "retire":
            # The sockets stay open, so that this version can serve again if the new one ends.
            self._server.num_workers = 0
        elif action == "return":
            self._phase.set("")
            runtime_dir.begin_service(self._settings.port, beside=True)
            self._server.num_workers = self._workers
            self._abort("The new version ended soon after the switch.")
        elif action == "end":
            raise StopIteration  # ends gunicorn's main loop

    def become_pid_holder(self) -> None:
        """Replace this process by a pid holder if the new version runs.

        A service manager watches the pid of the first process. Called right before the end.
        """
        if os.environ.get(channel.SHELL) or not self._is_new_running():
            return
        folders = [runtime_dir.folder(self._settings.port, place) for place in runtime_dir.PLACES]
        # The pid holder forwards signals that arrive in the meantime.
        signal.pthread_sigmask(signal.SIG_BLOCK, pid_holder.FORWARDED_SIGNALS)
        sys.stdout.flush()
        command = [sys.executable, "-I", str(Path(pid_holder.__file__))]
        files = [str(folder / runtime_dir.SERVICE) for folder in folders]
        os.execv(sys.executable, [*command, *files])  # noqa: S606 - this interpreter, no shell

    def _report(self, message: str) -> None:
        _log.info("upgrade progressed", detail=message)
        status_file.write(self._settings.port, "under way", message)
