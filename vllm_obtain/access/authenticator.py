"""API key authentication in one gateway process."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from vllm_obtain.access import key_store
from vllm_obtain.access.api_key import ADMIN, INFERENCE, ApiKey, Scope, digest
from vllm_obtain.access.key_store import KeyFileError
from vllm_obtain.config.settings import Settings, is_frozen
from vllm_obtain.errors import MissingScope, StartError, Unauthorized
from vllm_obtain.logs.setup import get_logger

log = get_logger("vllm_obtain.access_rules")

# Seconds between two checks of KEYS_FILE: a revoked key works for at most that long.
RELOAD_INTERVAL = 0.5
# Set for workers that start later, if API keys were required when the service started.
LOCKED_VARIABLE = "VLLM_OBTAIN_LOCKED"

_HOW = "Send a key in the header 'Authorization: Bearer <key>' or 'x-api-key: <key>'."
_MAKE = "The operator of this service can create keys with `vllm-obtain keys create`."


class Authenticator:
    """Checks API keys of API_KEYS and of KEYS_FILE. The file is read again when it changes.

    Once keys are required, they stay required until the process ends, even if the file disappears.
    A file that becomes invalid while the service runs changes nothing: the previous keys stay, in
    workers that start later too.

    Args:
        settings: the service's settings.
        clock: monotonic seconds.
        copy: where processes of this service keep the last valid content of KEYS_FILE.

    Raises:
        StartError: KEYS_FILE cannot be used, and the service is just starting.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        copy: Path | None = None,
    ) -> None:
        self._path = settings.keys_file
        self._copy = copy
        self._clock = clock
        self._next_check = clock() + RELOAD_INTERVAL
        self._fixed = [
            _key_of_setting(number, token) for number, token in enumerate(settings.tokens, 1)
        ]
        self._stamp = key_store.stamp(self._path)
        self._required = os.environ.get(LOCKED_VARIABLE) == "1"
        try:
            self._set_keys(self._read())
        except KeyFileError as error:
            self._set_keys(self._previous_keys(error))

    @property
    def required(self) -> bool:
        """Whether a request needs an API key."""
        now = self._clock()
        if now >= self._next_check:
            self._next_check = now + RELOAD_INTERVAL
            self._reload_if_changed()
        return self._required

    @property
    def all(self) -> list[ApiKey]:
        """All keys, read again if KEYS_FILE has changed."""
        self._reload_if_changed()
        return list(self._keys.values())

    def admit(self, tokens: Iterable[str]) -> ApiKey:
        """Find the API key of a request.

        Args:
            tokens: keys that the client sent; one valid key is enough.

        Raises:
            Unauthorized: no key was sent, or none is valid, or the key has expired.
        """
        has_key = False
        for token in tokens:
            has_key = True
            key = self._find(digest(token))
            if key is None:
                continue
            if key.is_expired:
                raise Unauthorized(f"The API key '{key.id}' has expired. {_MAKE}")
            return key
        if has_key:
            raise Unauthorized(f"The API key is unknown or was revoked. {_HOW} {_MAKE}")
        raise Unauthorized(f"An API key is required, and none was sent. {_HOW} {_MAKE}")

    def _find(self, hashed: str) -> ApiKey | None:
        if hashed not in self._keys:
            self._reload_if_changed()  # the key may be new
        key = self._keys.get(hashed)
        return key if key is not None and key.matches(hashed) else None

    def _reload_if_changed(self) -> None:
        stamp = key_store.stamp(self._path)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._set_keys(self._read())
        except KeyFileError as error:
            log.error("keys file rejected", reason=str(error), keys=len(self._keys))
        else:
            log.info("keys file reloaded", keys=len(self._keys))

    def _read(self) -> list[ApiKey]:
        keys = key_store.read(self._path)
        if self._copy is not None:
            with contextlib.suppress(OSError):
                key_store.save(self._copy, keys)
        return keys

    def _previous_keys(self, problem: KeyFileError) -> list[ApiKey]:
        """Return the last valid keys of a service that has started, in a worker that starts."""
        try:
            if not is_frozen() or self._copy is None or not self._copy.exists():
                raise problem
            keys = key_store.read(self._copy)
        except KeyFileError as error:
            raise StartError(str(error)) from error
        log.error("keys file rejected", reason=str(problem), keys=len(keys))
        return keys

    def _set_keys(self, file_keys: list[ApiKey]) -> None:
        self._keys = {key.hash: key for key in (*file_keys, *self._fixed)}
        # A file without keys was emptied by `revoke`. It must lock everybody out, not let them in.
        self._required = self._required or bool(self._keys) or self._stamp is not None


def need(key: ApiKey | None, scope: Scope, what: str) -> None:
    """Check that a key has a scope.

    Args:
        key: the caller's key, None where no keys are required.
        scope: the required scope.
        what: the action, as the start of a sentence.

    Raises:
        MissingScope: the key lacks the scope.
    """
    if key is not None and not key.may(scope):
        raise MissingScope(
            f"{what} requires the scope '{scope}', and the key '{key.id}' has "
            f"{', '.join(key.scopes) or 'none'}. Use a key with that scope, or create one with "
            f"`vllm-obtain keys create --scope {scope}`."
        )


def _key_of_setting(number: int, token: str) -> ApiKey:
    # The id comes from the position and not from the hash: a part of the hash of a short key must
    # not appear in logs.
    return ApiKey(id=f"env-{number}", hash=digest(token), scopes=[INFERENCE, ADMIN])
