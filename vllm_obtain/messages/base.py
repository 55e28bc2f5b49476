"""What every message is, and what an error is on the wire."""

from __future__ import annotations

from msgspec import Struct

from vllm_obtain.errors import ServiceError


class Message(Struct, tag=True, tag_field="kind", frozen=True):
    """Base of all messages."""


class Refused(Message, frozen=True):
    """An error for the client; fields as in `errors.ServiceError`."""

    message: str
    status: int
    type: str
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    retry: bool | None = None
    headers: dict[str, str] | None = None

    @classmethod
    def of(cls, error: ServiceError) -> Refused:
        """Pack an error for the wire."""
        return cls(
            error.message,
            error.status,
            error.type,
            error.code,
            error.param,
            error.retry_after,
            error.retry,
            error.headers or None,
        )

    def error(self) -> ServiceError:
        """Unpack the error."""
        made = ServiceError(
            self.message,
            param=self.param,
            code=self.code,
            status=self.status,
            retry_after=self.retry_after,
            retry=self.retry,
            headers=self.headers,
        )
        made.type = self.type
        return made
