"""Encodes reasoning as `encrypted_content`, which clients send back without reading it.

OpenAI encrypts reasoning. This service does not hide it, so the text is only base64-encoded.
"""

from __future__ import annotations

import base64

from vllm_obtain.errors import InvalidRequest

_PREFIX = "vllm-obtain."


def seal(text: str) -> str:
    """Encode reasoning as `encrypted_content`."""
    return _PREFIX + base64.urlsafe_b64encode(text.encode()).decode()


def unseal(content: str, param: str) -> str:
    """Decode the output of `seal`.

    Args:
        content: the text of `encrypted_content`.
        param: path of the field in the request, for the error.

    Raises:
        InvalidRequest: the content is from another service.
    """
    try:
        if not content.startswith(_PREFIX):
            raise ValueError("prefix missing")
        sealed = content.removeprefix(_PREFIX).encode()
        return base64.b64decode(sealed, altchars=b"-_", validate=True).decode()
    except ValueError:  # includes the errors of base64 and UTF-8
        raise InvalidRequest(
            "Cannot decode 'encrypted_content': it was created by another service. "
            "Omit the reasoning item.",
            param=param,
        ) from None
