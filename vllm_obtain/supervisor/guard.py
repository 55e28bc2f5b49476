"""The parent of one engine: kills its whole process group when the supervisor is gone.

A thread in the engine could not do that: a load may hold the interpreter lock, a stopped process
runs no thread, and vLLM's children outlive its parent. This process does nothing else, imports
the standard library only, and reads commands from its standard input, which the supervisor
holds: `T` asks the engine to end, end of file kills it.

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
# An engine takes whatever processors it gets; who answers its clients must not wait for one.
_NICENESS = 5


def _prepare(guard: int, pidfile: str) -> None:
    """Run in the engine's process before it becomes the engine, so it is never unknown."""
    if sys.platform == "linux":
        _give_way()
        # Have the kernel kill the engine if even this guard is killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:  # it was killed before the kernel knew
            os._exit(128 + signal.SIGKILL)
    try:
        with open(pidfile + ".new", "w") as file:  # noqa: PTH123 - pathlib is slow to import
            file.write(str(os.getpid()))
        os.replace(pidfile + ".new", pidfile)  # noqa: PTH105 - as above
    except OSError as error:
        print(f"The pid file cannot be written: {error}", flush=True)
        raise


def _give_way() -> None:
    """Have the kernel prefer the gateway, the supervisor and everybody else to the engine."""
    with contextlib.suppress(OSError):
        os.nice(_NICENESS)
    # Its threads wait their turn when they are woken: llama.cpp wakes one for each stream at every
    # token, and each would interrupt what computes, and who answers (sched(7)).
    with contextlib.suppress(OSError):
        if os.sched_getscheduler(0) == os.SCHED_OTHER:  # else somebody chose on purpose
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    # Niceness counts within a session only where the kernel groups by session (sched(7)).
    with contextlib.suppress(OSError), open("/proc/self/autogroup", "w") as file:  # noqa: PTH123 - as below
        file.write(str(_NICENESS))


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _reap(engine: subprocess.Popen[bytes]) -> None:
    """End with the engine and with its exit status, leaving none of its children."""
    status = engine.wait()
    _signal_group(engine.pid, signal.SIGKILL)
    os._exit(status if status >= 0 else 128 - status)


def main() -> None:
    """Start the engine, note its pid, wait for the first end: its own or the supervisor's."""
    # Ctrl-C in a terminal reaches every process of the group: ending is the supervisor's call.
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
    while order := os.read(0, 1):
        if order == b"T":
            _signal_group(engine.pid, signal.SIGTERM)
    _signal_group(engine.pid, signal.SIGKILL)
    reaper.join()


if __name__ == "__main__":
    main()
