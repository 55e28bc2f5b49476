"""Compiles grammars that clients wrote, where it does no harm: in a process of its own.

A few bytes of a grammar can take minutes to compile, or more stack than there is, which no
language catches. Runs by itself: standard library and llguidance. A grammar comes in as its length
in four bytes and its text, what is wrong with it goes out likewise; nothing wrong is an empty text.
"""

from __future__ import annotations

import re
import resource
import signal
import socket
import struct
import sys
import threading

from llguidance import LLMatcher, LLTokenizer

# Seconds of its own time that a grammar may take; then SIGPROF ends the process.
SECONDS = 1.0
# Less than the thread has in which an engine compiles: 2 MiB at least with glibc, 512 KiB on macOS.
_STACK_BYTES = (1536 if sys.platform == "linux" else 384) * 1024
_MEMORY_BYTES = 2 * 1024**3
_LENGTH = struct.Struct(">I")
_WHERE = re.compile(r"^at \d+\(\d+\): |^failed to compile JSON schema: ")


def problem(grammar: str, tokenizer: LLTokenizer) -> str:
    """Say what is wrong with a grammar; empty if nothing is."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()  # some limits are only met here
    if not matcher.is_error():
        return ""
    # Its first line says what, unless it is about an expression; the others show the grammar.
    lines = str(matcher.get_error()).strip().splitlines()
    causes = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    said = causes[0] if causes else lines[0]
    while found := _WHERE.match(said):
        said = said[found.end() :]
    return said.rstrip(".")


def _serve(line: socket.socket) -> None:
    tokenizer = LLTokenizer("byte")
    with line, line.makefile("rwb") as stream:
        while len(head := stream.read(_LENGTH.size)) == _LENGTH.size:
            grammar = stream.read(_LENGTH.unpack(head)[0]).decode()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            said = problem(grammar, tokenizer).encode()
            signal.setitimer(signal.ITIMER_PROF, 0)
            stream.write(_LENGTH.pack(len(said)) + said)
            stream.flush()


def _limit(what: int, value: int) -> None:
    try:
        resource.setrlimit(what, (value, value))
    except (OSError, ValueError):  # not everywhere, and never above what there is
        return


def main() -> None:
    """Answer until the other end hangs up."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    # Not 0 on Linux, where that means little; see `cores.py`.
    _limit(resource.RLIMIT_CORE, 1 if sys.platform == "linux" else 0)
    if sys.platform == "linux":
        _limit(resource.RLIMIT_AS, _MEMORY_BYTES)
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=_serve, args=(socket.socket(fileno=0),))
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
