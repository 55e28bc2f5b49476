"""Reasoning in the form of `encrypted_content`: text that clients send back unread.

OpenAI hides reasoning in it. Here nothing is hidden from who runs the model, so it is the text in
a form that survives every client.
"""

from __future__ import annotations

import base64

from vllm_obtain.errors import InvalidRequest

_MARK = "vllm-obtain."


def seal(text: str) -> str:
    """Write reasoning as `encrypted_content`."""
    return _MARK + base64.urlsafe_b64encode(text.encode()).decode()


def unseal(content: str, param: str) -> str:
    """Read what `seal` wrote.

    Args:
        content: the text of `encrypted_content`.
        param: where it stands in the request.

    Raises:
        InvalidRequest: it comes from another service.
    """
    try:
        if not content.startswith(_MARK):
            raise ValueError("no mark")
        sealed = content.removeprefix(_MARK).encode()
        return base64.b64decode(sealed, altchars=b"-_", validate=True).decode()
    except ValueError:  # as are the errors of base64 and of UTF-8
        raise InvalidRequest(
            "This 'encrypted_content' was not made by this service, so nobody here can read it. "
            "Leave the reasoning item out.",
            param=param,
        ) from None
