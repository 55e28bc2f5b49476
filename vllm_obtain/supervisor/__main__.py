"""`python -m vllm_obtain.supervisor`: binds the control socket, then goes to the background.

The socket is bound before the first process returns, so whoever started this can connect at
once. Started by `supervisor.client.ensure_running`, never by hand.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from pathlib import Path

from vllm_obtain.settings import load_settings
from vllm_obtain.supervisor import runtime


def main() -> None:
    """Start the supervisor of this environment's port, for the owner in the arguments."""
    owner = int(sys.argv[1]), float(sys.argv[2])
    settings = load_settings()
    folder = runtime.prepare(settings.port)
    try:
        listener = _listen(folder)
    except FileNotFoundError:
        # The supervisor before this one has just removed the folder, as the last thing it did.
        listener = _listen(runtime.prepare(settings.port))
    # Two generations: the grandchild has no parent that would have to collect it.
    if os.fork():
        os._exit(0)
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)

    from vllm_obtain.supervisor.service import run

    status = run(settings, folder, listener, owner)
    logging.shutdown()
    # Not sys.exit: a measurement that hangs in a driver would be waited for.
    os._exit(status)


def _listen(folder: Path) -> socket.socket:
    control = folder / runtime.CONTROL
    control.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(control))
    listener.listen(2048)
    listener.setblocking(False)
    return listener


if __name__ == "__main__":
    main()
