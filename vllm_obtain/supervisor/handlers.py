"""Handlers of control messages. Each part of the supervisor offers those of its own messages."""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from vllm_obtain.control.messages import Reply, Request

# Returns the reply, a coroutine for a reply that takes time, or None if the message has no reply.
Handler = Callable[[Any], Reply | Coroutine[Any, Any, Reply] | None]
Handlers = Mapping[type[Request], Handler]
