"""Finds the end of a JSON object that arrives in pieces."""

from __future__ import annotations

import re

_OUTSIDE = re.compile(r'["{}\[\]]')
_INSIDE = re.compile(r'["\\]')


class JSONScanner:
    """Scans an object or a list from its first bracket to its last."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = False
        self._escaped = False
        self.over = False

    def feed(self, text: str) -> int:
        """Scan the next piece.

        Returns:
            The number of its characters that belong to the object.
        """
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            match = (_INSIDE if self._in_text else _OUTSIDE).search(text, at)
            if match is None:
                break
            at = match.end()
            if self._process(match.group()):
                return at
        return len(text)

    def _process(self, sign: str) -> bool:
        if sign == "\\":
            self._escaped = True
        elif sign == '"':
            self._in_text = not self._in_text
        elif sign in "{[":
            self._depth += 1
        else:
            self._depth -= 1
            self.over = self._depth <= 0
        return self.over
