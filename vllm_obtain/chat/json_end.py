"""Finds where a JSON object ends that comes in pieces."""

from __future__ import annotations

import re

_OUTSIDE = re.compile(r'["{}\[\]]')
_INSIDE = re.compile(r'["\\]')


class JSONEnd:
    """Follows an object (or a list) from its first bracket to its last."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_text = False
        self._escaped = False
        self.over = False

    def feed(self, text: str) -> int:
        """Read on.

        Returns:
            How many characters of this piece belong to the object.
        """
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_INSIDE if self._in_text else _OUTSIDE).search(text, at)
            if found is None:
                break
            at = found.end()
            if self._sees(found.group()):
                return at
        return len(text)

    def _sees(self, sign: str) -> bool:
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
