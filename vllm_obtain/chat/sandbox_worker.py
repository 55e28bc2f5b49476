"""The process that does work of unknown cost, within limits: templates, grammars and schemas.

What comes with a model or a request may take any time, memory or stack. Here it can be killed
without loss. Protocol: a four-byte length and JSON, `[operation, arguments]`; the reply has the
same form, `[status, value]`. One piece of work at a time. The process ends with its socket.
"""

from __future__ import annotations

import ctypes
import resource
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from vllm_obtain.chat import template_probe
from vllm_obtain.errors import InvalidRequest

# An option of the command line.
END_WITH_PARENT = "--end-with-parent"
_PR_SET_PDEATHSIG = 1
LENGTH = struct.Struct(">I")
# Statuses: the result; an error of the template (its message and field); the limits of memory and
# of the output.
DONE, REFUSED, MEMORY, OUTPUT = "done", "refused", "memory", "output"
_MIB = 1024 * 1024
# Address space of the process at most. macOS does not enforce it.
_ADDRESS_SPACE = 2048 * _MIB
# A request is held as bytes, as objects and as a part of the output; a character has up to 4 bytes.
_COPIES = 12
# Less than the stack of an engine's threads: at least 2 MiB with glibc, 512 KiB on macOS.
_STACK_BYTES = (1536 if sys.platform == "linux" else 384) * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one piece of work.

    Args:
        seconds: CPU time; then SIGPROF ends the process.
        memory: bytes of the process, beside what a large request needs.
    """

    seconds: float
    memory: int


LIMITS = {
    # A chat with 20,000 messages takes 0.1 s, a tenth of that in most templates.
    "render": Limits(2.0, 256 * _MIB),
    "probe": Limits(1.0, 256 * _MIB),
    "lark": Limits(1.0, 256 * _MIB),
    "limits": Limits(1.0, 256 * _MIB),
    "grammar": Limits(1.0, _ADDRESS_SPACE),
    "violations": Limits(1.0, _ADDRESS_SPACE),
}


def memory_limit(operation: str, request: int) -> int:
    """Return the bytes that a piece of work may use, for a request of so many bytes."""
    return min(LIMITS[operation].memory + _COPIES * request, _ADDRESS_SPACE)


def output_limit(request: int) -> int:
    """Return the most bytes of a reply to a request of so many bytes."""
    return 16 * _MIB + 4 * request


def _operation(name: str) -> Callable[..., Any]:
    if name in ("render", "probe"):
        return template_probe.render if name == "render" else template_probe.probe
    # Imported when it is needed: most services never see a grammar.
    from vllm_obtain.chat import grammar_limits, grammar_trial

    functions: dict[str, Callable[..., Any]] = {
        "lark": grammar_trial.lark,
        "limits": grammar_limits.grammar_problem,
        "grammar": grammar_trial.problem,
        "violations": grammar_trial.violations,
    }
    return functions[name]


def handle(request: bytes) -> bytes:
    """Do a piece of work within its limits, and return the reply."""
    name, arguments = msgspec.json.decode(request)
    function = _operation(name)
    _limit(resource.RLIMIT_DATA, memory_limit(name, len(request)))
    signal.setitimer(signal.ITIMER_PROF, LIMITS[name].seconds)
    reply: list[Any]
    try:
        encoded = msgspec.json.encode([DONE, function(*arguments)])
        if len(encoded) <= output_limit(len(request)):
            return encoded
        reply = [OUTPUT, None]
    except InvalidRequest as error:
        reply = [REFUSED, [error.message.encode(errors="replace").decode(), error.param]]
    except MemoryError:
        reply = [MEMORY, None]
    except Exception as error:
        # Such as text that is not valid Unicode. The process can go on.
        reply = [REFUSED, [f"This model's chat template failed: {type(error).__name__}.", None]]
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        _limit(resource.RLIMIT_DATA, _ADDRESS_SPACE)
    return msgspec.json.encode(reply)


def _serve(line: socket.socket) -> None:
    with line, line.makefile("rwb") as stream:
        while len(head := stream.read(LENGTH.size)) == LENGTH.size:
            reply = handle(stream.read(LENGTH.unpack(head)[0]))
            stream.write(LENGTH.pack(len(reply)) + reply)
            stream.flush()


def _limit(kind: int, value: int) -> None:
    with suppress(OSError, ValueError):  # unsupported here, or above the hard limit
        resource.setrlimit(kind, (value, resource.getrlimit(kind)[1]))


def main() -> None:
    """Serve until the other end closes the socket."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    if END_WITH_PARENT in sys.argv and sys.platform == "linux":
        # Otherwise a stopped process would stay.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # Not 0 on Linux, where it has little effect; see `core_dumps.py`.
    _limit(resource.RLIMIT_CORE, 1 if sys.platform == "linux" else 0)
    if sys.platform == "linux":
        _limit(resource.RLIMIT_AS, _ADDRESS_SPACE)
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=_serve, args=(socket.socket(fileno=0),))
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
