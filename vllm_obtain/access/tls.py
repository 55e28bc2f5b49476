"""HTTPS: the certificate, checked before the start."""

from __future__ import annotations

import ssl

from vllm_obtain.errors import StartError
from vllm_obtain.settings import Settings


def context(settings: Settings) -> ssl.SSLContext | None:
    """Make what encrypts, from TLS_CERTFILE and TLS_KEYFILE; None when neither is set.

    Raises:
        StartError: one is missing, or they cannot be used.
    """
    certificate, key = settings.tls_certfile, settings.tls_keyfile
    if not certificate and not key:
        return None
    if not (certificate and key):
        raise StartError(
            "TLS_CERTFILE and TLS_KEYFILE go together: set both for HTTPS, or neither."
        )
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        made.load_cert_chain(certificate, key, password=_no_password)
    except _Locked:
        raise StartError(
            f"TLS_KEYFILE={key} has a password, which nobody could type at a start. Write it "
            f"without one: openssl pkey -in {key} -out unlocked.pem"
        ) from None
    except OSError as error:  # ssl's errors are, too
        raise StartError(
            f"TLS_CERTFILE={certificate} with TLS_KEYFILE={key} cannot be used: {_why(error)}."
        ) from None
    return tightened(made)


class _Locked(Exception):
    """A key wants a password."""


def _no_password() -> bytes:
    # Without an answer OpenSSL would ask for one on the terminal.
    raise _Locked


def tightened(made: ssl.SSLContext) -> ssl.SSLContext:
    """Refuse what is old."""
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    return made


def _why(error: OSError) -> str:
    reason = getattr(error, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return "the key belongs to another certificate"
    if isinstance(error, ssl.SSLError):
        return f"they are no PEM files of a certificate and its key ({reason or error})"
    return f"{error.filename or 'one of them'}: {error.strerror or error}"
