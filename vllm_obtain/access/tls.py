"""TLS context for HTTPS; the certificate is checked before the start."""

from __future__ import annotations

import ssl

from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import StartError


def context(settings: Settings) -> ssl.SSLContext | None:
    """Create the TLS context from TLS_CERTFILE and TLS_KEYFILE; None if neither is set.

    Raises:
        StartError: one of them is missing or invalid.
    """
    certificate, key = settings.tls_certfile, settings.tls_keyfile
    if not certificate and not key:
        return None
    if not (certificate and key):
        raise StartError(
            "Only one of TLS_CERTFILE and TLS_KEYFILE is set. Set both for HTTPS, or neither."
        )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        tls.load_cert_chain(certificate, key, password=_no_password)
    except _Locked:
        raise StartError(
            f"TLS_KEYFILE={key} has a password, which is not supported. Remove it: "
            f"openssl pkey -in {key} -out unlocked.pem"
        ) from None
    except OSError as error:  # ssl's errors are, too
        raise StartError(
            f"TLS_CERTFILE={certificate} with TLS_KEYFILE={key} is not usable: {_reason(error)}. "
            "Check both paths and files."
        ) from None
    return require_modern(tls)


class _Locked(Exception):
    """The private key is encrypted with a password."""


def _no_password() -> bytes:
    # Without this callback OpenSSL would prompt on the terminal.
    raise _Locked


def require_modern(tls: ssl.SSLContext) -> ssl.SSLContext:
    """Require TLS 1.2 or newer."""
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    return tls


def _reason(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return "the key belongs to another certificate"
    if isinstance(error, ssl.SSLError):
        return f"not PEM files of a certificate and its key ({reason or error})"
    return f"{error.filename or 'one of them'}: {error.strerror or error}"
