"""Guard: the parent process of one engine. It kills the engine when the supervisor has ended.

A thread in the engine is not enough: a load may hold the interpreter lock, a stopped process runs
    no threads, and vLLM's children outlive their parent. The guard imports only the standard
    library. It reads commands from its standard input, which the supervisor holds: `T` sends
    SIGTERM to the engine, and end of file kills its process group.

    python guard.py PIDFILE PROGRAM ARGUMENT…
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1
# Engines use all available processors, so they yield to the gateway and the supervisor.
_NICENESS = 5


def _prepare(guard: int, pidfile: str) -> None:
    """Write the pid file and set priorities in the child process, before `exec`."""
    if sys.platform == "linux":
        _lower_priority()
        # The kernel kills the engine if this guard is killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # the guard was killed before the call
            os._exit(128 + signal.SIGKILL)
    try:
        with open(pidfile + ".new", "w") as file:  # noqa: PTH123 - pathlib is slow to import
            file.write(str(os.getpid()))
        os.replace(pidfile + ".new", pidfile)  # noqa: PTH105 - as above
    except OSError as error:
        print(f"Cannot write the pid file: {error}", flush=True)
        raise


def _lower_priority() -> None:
    """Lower the scheduling priority of the engine below that of other processes."""
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    # A SCHED_BATCH thread does not preempt others when it wakes up. llama.cpp wakes up one thread
    # per stream at every token, each of which would interrupt computing and serving threads
    # (sched(7)).
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:  # otherwise the operator has set a policy
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    # With autogroups, niceness works within a session only, so set it for the group (sched(7)).
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:  # noqa: PTH123 - as below
        file.write(str(_NICENESS))


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _reap(engine: subprocess.Popen[bytes]) -> None:
    """Wait for the engine, kill its children, and exit with its status."""
    status = engine.wait()
    _signal_group(engine.pid, signal.SIGKILL)
    os._exit(status if status >= 0 else 128 - status)


def main() -> None:
    """Start the engine, and wait until it or the supervisor has ended."""
    # Ctrl-C reaches every process of the terminal's group. The supervisor decides about the stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pidfile, command = sys.argv[1], sys.argv[2:]
    engine = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        process_group=0,
        preexec_fn=functools.partial(_prepare, os.getpid(), pidfile),
    )
    reaper = threading.Thread(target=_reap, args=(engine,), daemon=True)
    reaper.start()
    while command_byte := os.read(0, 1):
        if command_byte == b"T":
            _signal_group(engine.pid, signal.SIGTERM)
    _signal_group(engine.pid, signal.SIGKILL)
    reaper.join()


if __name__ == "__main__":
    main()
