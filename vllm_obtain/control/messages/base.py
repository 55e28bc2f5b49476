"""The base class of messages, and errors as messages."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from vllm_obtain.errors import ServiceError

# A number that is added to a counter, which only grows.
Count = Annotated[int, Meta(ge=0)]

# Tags on the wire are those of 0.1.0, since workers and supervisors of both versions exchange
# messages during an upgrade. The tag of a class that is not listed is its name.
_WIRE_NAMES = {
    "AcquireLease": "Acquire",
    "AdjustReservation": "Settle",
    "CacheHit": "Remembered",
    "CacheLookup": "Recall",
    "CacheStore": "Remember",
    "CallerIdentity": "Caller",
    "CancelDownload": "PullCancel",
    "ChargeQuota": "Spend",
    "ClearQuarantine": "Pardon",
    "DeleteResponse": "Forget",
    "DownloadList": "PullsReply",
    "DownloadState": "PullState",
    "EngineLimits": "Limits",
    "EngineSwitch": "Handover",
    "ErrorReply": "Refused",
    "ExtendLease": "Extend",
    "InspectModels": "Look",
    "LeaseExtended": "Extended",
    "LeaseGranted": "Granted",
    "ListDownloads": "Pulls",
    "ListQuarantine": "Suspects",
    "LoadModel": "Load",
    "LoadResponse": "Fetch",
    "LoadStatus": "Done",
    "ModelRemoved": "Removed",
    "ModelsInspected": "Looked",
    "OwnerRegistered": "Welcome",
    "QuarantineCleared": "Pardoned",
    "QuarantineEntry": "Quarantined",
    "QuotaCharged": "Spent",
    "RegisterOwner": "Join",
    "ReleaseLease": "Release",
    "RemoveModel": "Remove",
    "ReportRequests": "Report",
    "RequestRecord": "Served",
    "ResponseLoaded": "Fetched",
    "ResponseStored": "Kept",
    "StartDownload": "Pull",
    "StopSupervisor": "Stop",
    "StoreResponse": "Keep",
    "UnloadModel": "Unload",
    "WaitForDownload": "PullNews",
}


def _wire_name(name: str) -> str:
    return _WIRE_NAMES.get(name, name)


class Message(Struct, tag=_wire_name, tag_field="kind", frozen=True):
    """Base of all messages."""


class Request(Message, frozen=True):
    """Base of the messages that the supervisor receives."""


class Reply(Message, frozen=True):
    """Base of the messages that the gateway receives."""


class ErrorReply(Reply, frozen=True):
    """An error reply; fields as in `errors.ServiceError`."""

    message: str
    status: int
    type: str
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    retry: bool | None = None
    headers: dict[str, str] | None = None

    @classmethod
    def of(cls, error: ServiceError) -> ErrorReply:
        """Create the message for an error."""
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
        """Create the error for this message."""
        service_error = ServiceError(
            self.message,
            param=self.param,
            code=self.code,
            status=self.status,
            retry_after=self.retry_after,
            retry=self.retry,
            headers=self.headers,
        )
        service_error.type = self.type
        return service_error
