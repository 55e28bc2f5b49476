"""Compiles clients' grammars in a separate process, where they cannot do harm.

A few bytes of a grammar can take minutes to compile, or overflow the stack, which cannot be
caught. The same holds for values that are validated against a client's schema. Imports only the
standard library, llguidance and jsonschema-rs. Protocol: a four-byte length and the grammar; the
reply is a four-byte length and the problem, empty if there is none. A request that begins with
`VALIDATION` has a schema and a value instead, a line each; the reply has the violated keywords.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import socket
import struct
import sys
import threading
from itertools import islice
from typing import Any

from llguidance import LLMatcher, LLTokenizer

# Seconds of CPU time per grammar; then SIGPROF ends the process.
SECONDS = 1.0
# Less than the stack of an engine's threads: at least 2 MiB with glibc, 512 KiB on macOS.
_STACK_BYTES = (1536 if sys.platform == "linux" else 384) * 1024
_MEMORY_BYTES = 2 * 1024**3
_LENGTH = struct.Struct(">I")
# The values of the label `keyword` in the metrics; others are `other`.
_KEYWORDS = frozenset(
    "type enum const required properties additionalProperties patternProperties propertyNames "
    "minProperties maxProperties dependentRequired dependentSchemas dependencies items prefixItems "
    "additionalItems contains minContains maxContains uniqueItems minItems maxItems pattern "
    "minLength maxLength minimum maximum exclusiveMinimum exclusiveMaximum multipleOf allOf anyOf "
    "oneOf not if then else unevaluatedProperties unevaluatedItems".split()
)
_WHERE = re.compile(r"^at \d+\(\d+\): |^failed to compile JSON schema: ")


VALIDATION = b"validate\n"
# The reply if the schema is invalid or refers to others, or the value is no JSON.
UNCHECKED = "unchecked"
_MOST_VIOLATIONS = 16
_BACKTRACKS = 100_000


def violations(schema: str, value: str) -> str:
    """Return the keywords of a schema that a JSON value violates, separated by commas."""
    import jsonschema_rs  # takes 10 MB, and most services never need it

    def refuse(uri: str) -> Any:
        raise ValueError(f"{uri} is not loaded")

    try:
        validator = jsonschema_rs.validator_for(
            json.loads(schema),
            retriever=refuse,
            validate_formats=False,
            pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=_BACKTRACKS),
        )
        errors = islice(validator.iter_errors(json.loads(value)), _MOST_VIOLATIONS)
        paths = [[str(step) for step in error.schema_path] for error in errors]
    except (ValueError, RecursionError, jsonschema_rs.ReferencingError):
        return UNCHECKED
    keywords = {path[-1] if path and path[-1] in _KEYWORDS else "other" for path in paths}
    return ",".join(sorted(keywords))


def problem(grammar: str, tokenizer: LLTokenizer) -> str:
    """Return the problem of a grammar; empty if there is none."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0)
    if not matcher.is_error():
        matcher.compute_bitmask()  # some limits apply only here
    if not matcher.is_error():
        return ""
    # The first line has the cause, except for regular expressions; the others show the grammar.
    lines = str(matcher.get_error()).strip().splitlines()
    causes = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    message = causes[0] if causes else lines[0]
    while match := _WHERE.match(message):
        message = message[match.end() :]
    return message.rstrip(".")


def _serve(line: socket.socket) -> None:
    tokenizer = LLTokenizer("byte")
    with line, line.makefile("rwb") as stream:
        while len(head := stream.read(_LENGTH.size)) == _LENGTH.size:
            request = stream.read(_LENGTH.unpack(head)[0])
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            if request.startswith(VALIDATION):
                schema, value = request[len(VALIDATION) :].decode().split("\n", 1)
                reply = violations(schema, value).encode()
            else:
                reply = problem(request.decode(), tokenizer).encode()
            signal.setitimer(signal.ITIMER_PROF, 0)
            stream.write(_LENGTH.pack(len(reply)) + reply)
            stream.flush()


def _limit(kind: int, value: int) -> None:
    try:
        resource.setrlimit(kind, (value, value))
    except (OSError, ValueError):  # unsupported here, or above the hard limit
        return


def main() -> None:
    """Serve until the other end closes the socket."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    # Not 0 on Linux, where it has little effect; see `core_dumps.py`.
    _limit(resource.RLIMIT_CORE, 1 if sys.platform == "linux" else 0)
    if sys.platform == "linux":
        _limit(resource.RLIMIT_AS, _MEMORY_BYTES)
    threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=_serve, args=(socket.socket(fileno=0),))
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
