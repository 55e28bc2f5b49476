"""How bytes and JSON are damaged. Seeded: the same numbers make the same damage."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

EXTREMES = (
    b"\xff" * 8,
    b"\xff" * 4,
    bytes(8),
    b"\x08\0\0\0",
    b"\0\0\0\x80" * 2,
    b"\\u0000",
    b"\\ud800",
    b'"',
    b"[" * 40,
    b"1e999",
    b"-",
    b"\xc3",
    b"\r\n",
    b"\n\n",
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2.0, 0.5, 1e308, -1e308, 2**31, 2**53, 2**63, 2**64, -(2**63)),
    *("", "a", "\0", "\ud7ff", "😀" * 9, "x" * 300, "auto", "text", "function", "user", "-1"),
    *([], {}, [[]], [None], {"": None}, {"type": "text"}, {"type": None}, {"role": "user"}),
    *([{}] * 3, {"type": "function", "function": {}}, [1, "a"], {"a": {"a": {"a": 1}}}),
)


def pick(chance: Random, among: Any) -> Any:
    """Choose one; faster than `Random.choice`."""
    return among[int(chance.random() * len(among))]


def damage(content: bytes, chance: Random) -> bytes:
    """Change, add or remove a few bytes."""
    changed = bytearray(content)
    for _ in range(1 + int(chance.random() * 4)):
        at = int(chance.random() * (len(changed) or 1))
        match int(chance.random() * 5):
            case 0 if changed:
                changed[at] = int(chance.random() * 256)
            case 1:
                extreme = pick(chance, EXTREMES)
                changed[at : at + len(extreme)] = extreme
            case 2:
                del changed[at : at + 1 + int(chance.random() * 16)]
            case 3:
                changed[at:at] = chance.randbytes(1 + int(chance.random() * 8))
            case _:
                other = int(chance.random() * (len(changed) or 1))
                changed[at:at] = changed[other : other + 1 + int(chance.random() * 24)]
    return bytes(
        changed[: int(chance.random() * len(changed))] if chance.random() < 0.1 else changed
    )


def alter(value: Any, chance: Random) -> Any:
    """Put other values into a few places of a JSON value."""
    copied = copy.deepcopy(value)
    for _ in range(1 + int(chance.random() * 3)):
        holder, place = _place(copied, chance)
        if holder is None:
            return copy.deepcopy(pick(chance, VALUES))
        match int(chance.random() * 6):
            case 0:
                del holder[place]
            case 1 if isinstance(holder, dict):
                holder[str(pick(chance, VALUES))] = copy.deepcopy(pick(chance, VALUES))
            case 2 if isinstance(holder, list):
                holder.insert(place, copy.deepcopy(pick(chance, holder)))
            case 3:
                holder[place] = [holder[place]]
            case _:
                holder[place] = copy.deepcopy(pick(chance, VALUES))
    return copied


def as_json(value: Any) -> bytes:
    """Write JSON, as most clients do."""
    return json.dumps(value).encode()


def _place(value: Any, chance: Random) -> tuple[Any, Any]:
    holder, place = None, None
    while isinstance(value, dict | list) and value:
        if holder is not None and chance.random() < 0.3:
            break
        keys = list(value) if isinstance(value, dict) else range(len(value))
        holder, place = value, pick(chance, keys)
        value = value[place]
    return holder, place
