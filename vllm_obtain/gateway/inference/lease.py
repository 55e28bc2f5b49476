"""The gateway's side of a lease: acquire it, keep to it, report how it ended.

A lease is the control connection that it was acquired over. The supervisor takes it back when the
connection closes, so a worker that dies blocks nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from vllm_obtain.control.client import ControlConnection, SupervisorClient, SupervisorLost
from vllm_obtain.control.messages import (
    AcquireLease,
    AdjustReservation,
    CacheHit,
    CacheLookup,
    CacheStore,
    ExtendLease,
    LeaseExtended,
    LeaseGranted,
)
from vllm_obtain.engines.connection import EngineConnectionLost
from vllm_obtain.errors import ClientDisconnected, RequestTimeout
from vllm_obtain.gateway.core.cancellation import CancelToken
from vllm_obtain.gateway.core.usage import GenerationStats

# The supervisor keeps the deadline of a request that waits; its reply takes a moment to arrive.
_REPLY_SECONDS = 1.0
_EXTEND_TIMEOUT = 10.0


class Lease:
    """A lease, from the request for it to the report at its end.

    Args:
        connection: to the supervisor.
        stats: reported to the supervisor at the end.
        deadline: monotonic seconds after which the lease is of no use.
    """

    def __init__(
        self, connection: ControlConnection, stats: GenerationStats, deadline: float
    ) -> None:
        self._connection = connection
        self._stats = stats
        self._deadline = deadline
        self.granted: LeaseGranted | None = None

    def request(self, message: AcquireLease | CacheLookup) -> None:
        """Send the request; `poll` has the reply.

        Raises:
            SupervisorLost: the connection broke.
        """
        try:
            self._connection.send(message)
        except OSError as error:
            raise _supervisor_lost() from error

    def poll(self, timeout: float | None = None) -> LeaseGranted | CacheHit | None:
        """Wait for the reply.

        Args:
            timeout: seconds to wait; None waits until the deadline.

        Returns:
            The reply, or None if none came in time.

        Raises:
            ServiceError: the supervisor refused the request.
            RequestTimeout: the deadline passed.
            SupervisorLost: the connection broke.
        """
        left = self._deadline + _REPLY_SECONDS - time.monotonic()
        if left <= 0:
            raise RequestTimeout(
                "The supervisor did not respond within REQUEST_TIMEOUT. See errors.log.",
                retry=False,
            )
        try:
            reply = self._connection.receive(left if timeout is None else min(left, timeout))
        except TimeoutError:
            return None
        except OSError as error:
            raise _supervisor_lost() from error
        if isinstance(reply, CacheHit):
            return reply
        if not isinstance(reply, LeaseGranted):
            raise _supervisor_lost()
        self.granted = reply
        return reply

    def adjust(self, prompt_tokens: int) -> None:
        """Correct the reservation of prompt tokens, now that the engine has counted them."""
        # Without a supervisor the engine ends too, and the engine's connection shows that.
        with contextlib.suppress(OSError):
            self._connection.send(AdjustReservation(prompt_tokens))

    def extend(self, tokens: int) -> int:
        """Reserve more tokens; returns how many were granted.

        Raises:
            SupervisorLost: the connection broke.
        """
        try:
            message = ExtendLease(tokens)
            return self._connection.request(message, LeaseExtended, _EXTEND_TIMEOUT).tokens
        except OSError as error:
            raise _supervisor_lost() from error

    def release(self, outcome: str, lost: bool = False) -> None:
        """Give the lease back.

        Args:
            outcome: `stop`, `length`, `cancelled`, `error` and the like.
            lost: whether the engine broke the connection, which makes the engine suspect.
        """
        if self.granted is None:
            return
        self.granted = None
        try:
            self._connection.send(self._stats.release(outcome, lost))
        except OSError:
            self._connection.close()

    def store(self, response: bytes | None) -> None:
        """Have the response cached. None, or a closed connection, means that there is none."""
        if response is None:
            self._connection.close()
            return
        try:
            self._connection.send(CacheStore(response))
        except OSError:
            # The supervisor is gone; the client gets its response all the same.
            self._connection.close()


@contextlib.contextmanager
def open_lease(
    supervisor: SupervisorClient, cancel: CancelToken, stats: GenerationStats, deadline: float
) -> Iterator[Lease]:
    """Open a lease and release it at the end, with the outcome that the block had.

    Raises:
        SupervisorLost: the supervisor cannot be reached.
    """
    with supervisor.lease_connection() as connection, cancel.attach(connection):
        lease = Lease(connection, stats, deadline)
        outcome, lost = "error", False
        try:
            yield lease
            outcome = stats.finish_reason or "error"
        except (ClientDisconnected, GeneratorExit):
            outcome = "cancelled"
            raise
        except (EngineConnectionLost, SupervisorLost) as error:
            if cancel.is_cancelled:
                # The gateway closed the connection: that says nothing about the engine.
                raise cancel.cause from None
            lost = isinstance(error, EngineConnectionLost)
            raise
        finally:
            if cancel.is_cancelled:
                outcome = "cancelled"
            lease.release(outcome, lost)


def _supervisor_lost() -> SupervisorLost:
    return SupervisorLost("The supervisor ended. Try again.", retry_after=1)
