"""`python -m vllm_obtain.supervisor`: binds the control socket, then goes to the background.

The socket is bound before the first process exits, so a client can connect at once.
`SupervisorClient.ensure_running` starts this module.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path

from vllm_obtain.config.settings import load_settings
from vllm_obtain.control import runtime_dir


def main() -> None:
    """Start the supervisor for the port in the environment and the owner in the arguments."""
    owner = int(sys.argv[1]), float(sys.argv[2])
    settings = load_settings()
    folder = runtime_dir.prepare(settings.port)
    try:
        listener = _listen(folder)
    except FileNotFoundError:
        # The previous supervisor has just removed the folder, in its last step.
        listener = _listen(runtime_dir.prepare(settings.port))
    # Fork, so that the supervisor has no parent that would have to reap it.
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)

    from vllm_obtain.supervisor.main import run

    status = run(settings, folder, listener, owner)
    logging.shutdown()
    # Not sys.exit, which would wait for a measurement thread that hangs in a driver.
    os._exit(status)


def _listen(folder: Path) -> socket.socket:
    control = folder / runtime_dir.CONTROL
    control.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(control))
    listener.listen(2048)
    listener.setblocking(False)
    return listener


if __name__ == "__main__":
    main()
