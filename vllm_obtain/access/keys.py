"""The keys that let a client in, as one gateway process knows them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable

from vllm_obtain.access import key_file
from vllm_obtain.access.key import ADMIN, INFERENCE, Key, Scope, digest
from vllm_obtain.access.key_file import KeyFileError
from vllm_obtain.errors import MissingScope, StartError, Unauthorized
from vllm_obtain.log import get_logger
from vllm_obtain.settings import Settings

log = get_logger("vllm_obtain.access_rules")

# A key that was revoked is refused after this many seconds at most; a new one is known at once.
LOOK_SECONDS = 0.5
# Says to workers that are started later that keys were needed when the service started.
LOCKED_VARIABLE = "VLLM_OBTAIN_LOCKED"

_HOW = "Send a key as 'Authorization: Bearer <key>' or as 'x-api-key: <key>'."
_MAKE = "Whoever runs this service makes keys with `vllm-obtain keys create`."


class Keys:
    """Those of API_KEYS, and those in KEYS_FILE, which may change at any time.

    Once keys are needed they stay so while the process lives, whatever becomes of the file.

    Args:
        settings: the owner's settings.
        clock: monotonic seconds.

    Raises:
        StartError: KEYS_FILE cannot be used.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = settings.keys_file
        self._clock = clock
        self._next = clock() + LOOK_SECONDS
        self._fixed = [_own(number, token) for number, token in enumerate(settings.tokens, 1)]
        self._stamp = key_file.stamp(self._path)
        self._required = os.environ.get(LOCKED_VARIABLE) == "1"
        try:
            self._take(key_file.read(self._path))
        except KeyFileError as error:
            raise StartError(str(error)) from error

    @property
    def required(self) -> bool:
        """Whether a client needs a key."""
        now = self._clock()
        if now >= self._next:
            self._next = now + LOOK_SECONDS
            self._look()
        return self._required

    @property
    def all(self) -> list[Key]:
        """Every key there is."""
        self._look()
        return list(self._known.values())

    def admit(self, tokens: Iterable[str]) -> Key:
        """Find who sends a request.

        Args:
            tokens: what the client showed; one that is known is enough.

        Raises:
            Unauthorized: none of them is a key, or its time is over.
        """
        shown = False
        for token in tokens:
            shown = True
            key = self._find(digest(token))
            if key is None:
                continue
            if key.is_expired:
                raise Unauthorized(f"The API key '{key.id}' has expired. {_MAKE}")
            return key
        if shown:
            raise Unauthorized(f"This API key is not known here, or was revoked. {_HOW} {_MAKE}")
        raise Unauthorized(f"This service needs an API key, and none was sent. {_HOW} {_MAKE}")

    def _find(self, hashed: str) -> Key | None:
        if hashed not in self._known:
            self._look()  # it may have been made this moment
        key = self._known.get(hashed)
        return key if key is not None and key.fits(hashed) else None

    def _look(self) -> None:
        stamp = key_file.stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._take(key_file.read(self._path))
        except KeyFileError as error:
            log.error("the keys stay what they were", reason=str(error))
        else:
            log.info("keys read again", keys=len(self._known))

    def _take(self, kept: list[Key]) -> None:
        self._known = {key.hash: key for key in (*kept, *self._fixed)}
        # A file without keys was emptied by `revoke`: nobody gets in, rather than everybody.
        self._required = self._required or bool(self._known) or self._stamp is not None


def need(key: Key | None, scope: Scope, what: str) -> None:
    """Refuse what a key is not for.

    Args:
        key: the caller's, None where no keys are needed.
        scope: what it takes.
        what: the same in words, as the start of a sentence.

    Raises:
        MissingScope: it is not for that.
    """
    if key is not None and not key.may(scope):
        raise MissingScope(
            f"{what} takes a key with the scope '{scope}', and '{key.id}' has "
            f"{', '.join(key.scopes) or 'none'}. Use another key; `vllm-obtain keys create "
            f"--scope {scope}` makes one."
        )


def _own(number: int, token: str) -> Key:
    # By its place, not by its hash: whoever chose a short one shall not find a piece of its hash
    # in the logs.
    return Key(id=f"env-{number}", hash=digest(token), scopes=[INFERENCE, ADMIN])
