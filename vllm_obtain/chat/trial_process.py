"""Shim for a running 0.1.0, removed in 0.3.0: compiles grammars in the protocol of its workers."""

import resource
import runpy
import signal
import socket
import struct
import sys
import threading
from pathlib import Path

_LENGTH = struct.Struct(">I")


def _serve(line: socket.socket) -> None:
    problem = runpy.run_path(str(Path(__file__).parent / "grammar_trial.py"))["problem"]
    with line, line.makefile("rwb") as stream:
        while len(head := stream.read(_LENGTH.size)) == _LENGTH.size:
            grammar = stream.read(_LENGTH.unpack(head)[0]).decode()
            signal.setitimer(signal.ITIMER_PROF, 1.0)
            reply = problem(grammar).encode()
            signal.setitimer(signal.ITIMER_PROF, 0)
            stream.write(_LENGTH.pack(len(reply)) + reply)
            stream.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (2 * 1024**3, 2 * 1024**3))
    threading.stack_size((1536 if sys.platform == "linux" else 384) * 1024)
    thread = threading.Thread(target=_serve, args=(socket.socket(fileno=0),))
    thread.start()
    thread.join()
