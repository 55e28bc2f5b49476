"""The messages of the control protocol, between the gateway and the supervisor.

A connection to the control socket carries frames (`control/framing.py`) with one message each. The
gateway sends requests. The docstring of a request names its reply after the arrow; any request may
get an `ErrorReply` instead. Closing the connection releases its lease and its cache entry, so a
crashed worker blocks nothing.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import msgspec

from vllm_obtain.control.messages import base
from vllm_obtain.control.messages.base import *
from vllm_obtain.control.messages.caches import *
from vllm_obtain.control.messages.leases import *
from vllm_obtain.control.messages.lifecycle import *
from vllm_obtain.control.messages.models import *
from vllm_obtain.control.messages.status import *

# All messages of a kind; they are subclasses of it in the modules above.
REQUESTS = tuple(base.Request.__subclasses__())
REPLIES = tuple(base.Reply.__subclasses__())


def _decoder(kinds: tuple[type[base.Message], ...]) -> Callable[[bytes], Any]:
    return msgspec.msgpack.Decoder(functools.reduce(operator.or_, kinds)).decode


# Both raise a ValueError for other bytes.
decode_request: Callable[[bytes], base.Request] = _decoder(REQUESTS)
decode_reply: Callable[[bytes], base.Reply] = _decoder(REPLIES)
