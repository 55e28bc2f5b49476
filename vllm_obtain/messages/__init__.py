"""What the gateway and the supervisor say to each other. Read this package to know the protocol.

A connection to the control socket carries frames (`supervisor/wire.py`), one message each. The
gateway speaks first; every message names its answer. Closing the connection gives back
whatever it held: a lease, a claim on an answer. So a worker that dies blocks nothing.
"""

from __future__ import annotations

from vllm_obtain.messages.answers import (
    Fetch,
    Fetched,
    Forget,
    Keep,
    Kept,
    Recall,
    Remember,
    Remembered,
)
from vllm_obtain.messages.base import Message, Refused
from vllm_obtain.messages.leases import (
    Acquire,
    Caller,
    Extend,
    Extended,
    Granted,
    Limits,
    Release,
    Settle,
    Spend,
    Spent,
)
from vllm_obtain.messages.models import (
    Done,
    Load,
    Look,
    Looked,
    Pull,
    PullCancel,
    PullNews,
    Pulls,
    PullsReply,
    PullState,
    Remove,
    Removed,
    Unload,
)
from vllm_obtain.messages.owners import Join, Stop, Welcome
from vllm_obtain.messages.reports import (
    EngineStatus,
    Handover,
    KeyUsage,
    Metrics,
    MetricsReply,
    Pardon,
    Pardoned,
    Quarantined,
    QuarantineReply,
    Report,
    Served,
    Status,
    StatusReply,
    Suspects,
    Usage,
    UsageReply,
)

Request = (
    Join
    | Acquire
    | Spend
    | Settle
    | Extend
    | Release
    | Load
    | Unload
    | Status
    | Metrics
    | Report
    | Usage
    | Recall
    | Remember
    | Keep
    | Fetch
    | Forget
    | Suspects
    | Pardon
    | Pull
    | PullNews
    | PullCancel
    | Pulls
    | Look
    | Remove
    | Stop
)
Reply = (
    Welcome
    | Granted
    | Spent
    | Extended
    | Done
    | StatusReply
    | MetricsReply
    | UsageReply
    | Remembered
    | Kept
    | Fetched
    | QuarantineReply
    | Pardoned
    | PullState
    | PullsReply
    | Looked
    | Removed
    | Refused
)

__all__ = [
    "Acquire",
    "Caller",
    "Done",
    "EngineStatus",
    "Extend",
    "Extended",
    "Fetch",
    "Fetched",
    "Forget",
    "Granted",
    "Handover",
    "Join",
    "Keep",
    "Kept",
    "KeyUsage",
    "Limits",
    "Load",
    "Look",
    "Looked",
    "Message",
    "Metrics",
    "MetricsReply",
    "Pardon",
    "Pardoned",
    "Pull",
    "PullCancel",
    "PullNews",
    "PullState",
    "Pulls",
    "PullsReply",
    "QuarantineReply",
    "Quarantined",
    "Recall",
    "Refused",
    "Release",
    "Remember",
    "Remembered",
    "Remove",
    "Removed",
    "Reply",
    "Report",
    "Request",
    "Served",
    "Settle",
    "Spend",
    "Spent",
    "Status",
    "StatusReply",
    "Stop",
    "Suspects",
    "Unload",
    "Usage",
    "UsageReply",
    "Welcome",
]
