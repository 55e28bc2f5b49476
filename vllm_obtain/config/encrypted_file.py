"""Encrypted settings file, and its key in the OS keychain or in a file.

The encryption key is unrelated to API keys.
"""

from __future__ import annotations

import io
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from vllm_obtain.errors import SettingsError

# Appended to the name of the `.env` file.
SUFFIX = ".encrypted"
KEY_FILE = "CONFIG_KEY_FILE"

_SERVICE, _ACCOUNT = "vllm-obtain", "settings"
_HEAD = b"# Settings of vllm-obtain, encrypted. `vllm-obtain config decrypt` shows them.\n"
_NO_KEYRING = (
    f"No keychain is available for the encryption key of the settings. Set {KEY_FILE} to a key "
    "file, or install keychain support: pip install 'vllm-obtain[keychain]'"
)


def read(path: Path, key_file: str) -> dict[str, str]:
    """Read the variables in an encrypted file; none if the file does not exist.

    Args:
        path: the encrypted file.
        key_file: CONFIG_KEY_FILE; empty if the key is in the keychain.

    Raises:
        SettingsError: the file cannot be read or decrypted.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"Cannot read {path}: {error.strerror}.") from None
    text = _decrypted(path, (status.st_mtime_ns, status.st_size), key_file)
    return {name: value for name, value in parse(text).items() if value is not None}


def parse(text: str) -> dict[str, str | None]:
    """Parse variables in the format of a `.env` file."""
    return dotenv_values(stream=io.StringIO(text))


def unseal(path: Path, key: bytes) -> str:
    """Decrypt a file.

    Raises:
        SettingsError: the file cannot be read or decrypted.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"Cannot read {path}: {error.strerror}.") from None
    lines = [line for line in content.splitlines() if not line.startswith(b"#")]
    try:
        plaintext: bytes = _cipher(key).decrypt(b"".join(lines))
    except _invalid_token():
        raise SettingsError(
            f"Cannot decrypt {path}: it was encrypted with another key, or has been changed. Set "
            f"{KEY_FILE} to the right key, or use the keychain of the user who encrypted it. "
            "Otherwise encrypt the settings again."
        ) from None
    return plaintext.decode()


def seal(text: str, key: bytes) -> bytes:
    """Encrypt settings and return the content of the file."""
    ciphertext: bytes = _cipher(key).encrypt(text.encode())
    return _HEAD + ciphertext + b"\n"


def find_key(key_file: str) -> bytes:
    """Read the encryption key.

    Args:
        key_file: CONFIG_KEY_FILE; empty if the key is in the keychain.

    Raises:
        SettingsError: the key does not exist or cannot be read.
    """
    key = _from_file(Path(key_file).expanduser()) if key_file else _from_keychain()
    if key is None:
        where = f"{KEY_FILE}={key_file} does not exist" if key_file else "The keychain has no key"
        raise SettingsError(
            f"{where}, but the settings are encrypted. Set {KEY_FILE} to the key they were "
            "encrypted with, or encrypt them again with `vllm-obtain config encrypt`."
        )
    return key


def find_or_make_key(key_file: str) -> bytes:
    """Read the encryption key, or create and store a new one.

    Args:
        key_file: as in `find_key`.

    Raises:
        SettingsError: the key cannot be read or stored.
    """
    path = Path(key_file).expanduser()
    key = _from_file(path) if key_file else _from_keychain()
    if key is not None:
        return key
    from cryptography.fernet import Fernet

    new_key: bytes = Fernet.generate_key()
    if not key_file:
        _keychain("set_password", new_key.decode())
        return new_key
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(new_key + b"\n")
    except OSError as error:
        raise SettingsError(f"Cannot write {KEY_FILE}={path}: {error.strerror}.") from None
    return new_key


# Cached per modification time and size: workers are forked, and some keychains fail in a fork.
@lru_cache(4)
def _decrypted(path: Path, _: tuple[int, int], key_file: str) -> str:
    return unseal(path, find_key(key_file))


def _cipher(key: bytes) -> Any:
    from cryptography.fernet import Fernet

    try:
        return Fernet(key)
    except ValueError:
        raise SettingsError(
            f"Invalid encryption key in {KEY_FILE} or the keychain. It must be 32 bytes in base64, "
            "as created by `vllm-obtain config encrypt`."
        ) from None


def _invalid_token() -> type[Exception]:
    from cryptography.fernet import InvalidToken

    return InvalidToken


def _from_file(path: Path) -> bytes | None:
    try:
        return path.read_bytes().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"Cannot read {KEY_FILE}={path}: {error.strerror}.") from None


def _from_keychain() -> bytes | None:
    key = _keychain("get_password")
    return str(key).encode() if key is not None else None


def _keychain(method: str, *arguments: str) -> Any:
    try:
        import keyring
        from keyring.errors import KeyringError, NoKeyringError
    except ImportError:
        raise SettingsError(_NO_KEYRING) from None
    try:
        return getattr(keyring, method)(_SERVICE, _ACCOUNT, *arguments)
    except NoKeyringError:
        raise SettingsError(_NO_KEYRING) from None
    except KeyringError as error:
        raise SettingsError(
            f"Cannot read the encryption key from the keychain: {error}. Unlock it, or set "
            f"{KEY_FILE}."
        ) from None
