"""Settings in an encrypted file, and the key to it: in the OS's keychain, or in a file.

The key is no API key: whoever has it and the file can read the settings.
"""

from __future__ import annotations

import io
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from vllm_obtain.errors import SettingsError

# Beside `.env`, whose place it takes.
SUFFIX = ".encrypted"
KEY_FILE = "CONFIG_KEY_FILE"

_SERVICE, _ACCOUNT = "vllm-obtain", "settings"
_HEAD = b"# Settings of vllm-obtain, encrypted. `vllm-obtain config decrypt` shows them.\n"
_NO_KEYRING = (
    f"There is no keychain for the key of the encrypted settings. Set {KEY_FILE} to a file for it, "
    "or install what reaches the keychain: pip install 'vllm-obtain[keychain]'"
)


def read(path: Path, key_file: str) -> dict[str, str]:
    """Read the variables in an encrypted file; none when there is no file.

    Args:
        path: the file.
        key_file: CONFIG_KEY_FILE; empty: the key is in the keychain.

    Raises:
        SettingsError: it cannot be read, or not with this key.
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from None
    text = _opened(path, (found.st_mtime_ns, found.st_size), key_file)
    return {name: value for name, value in parsed(text).items() if value is not None}


def parsed(text: str) -> dict[str, str | None]:
    """Read variables as a `.env` file has them."""
    return dotenv_values(stream=io.StringIO(text))


def unseal(path: Path, key: bytes) -> str:
    """Decrypt a file.

    Raises:
        SettingsError: it cannot be read, or not with this key.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}.") from None
    lines = [line for line in content.splitlines() if not line.startswith(b"#")]
    try:
        opened: bytes = _cipher(key).decrypt(b"".join(lines))
    except _invalid():
        raise SettingsError(
            f"{path} was encrypted with another key, or changed since. Give the right one "
            f"({KEY_FILE}, or the keychain of the user who encrypted it), or encrypt anew."
        ) from None
    return opened.decode()


def seal(text: str, key: bytes) -> bytes:
    """Encrypt settings; returns what the file holds."""
    sealed: bytes = _cipher(key).encrypt(text.encode())
    return _HEAD + sealed + b"\n"


def find_key(key_file: str) -> bytes:
    """Find the key.

    Args:
        key_file: CONFIG_KEY_FILE; empty: it is in the keychain.

    Raises:
        SettingsError: there is none.
    """
    key = _from_file(Path(key_file).expanduser()) if key_file else _from_keychain()
    if key is None:
        where = f"{KEY_FILE}={key_file} does not exist" if key_file else "The keychain has no key"
        raise SettingsError(
            f"{where}, and the settings are encrypted. Give the key that they were encrypted with "
            f"({KEY_FILE}), or encrypt them anew with `vllm-obtain config encrypt`."
        )
    return key


def find_or_make_key(key_file: str) -> bytes:
    """As `find_key`, but make one if there is none, in the file or in the keychain."""
    path = Path(key_file).expanduser()
    key = _from_file(path) if key_file else _from_keychain()
    if key is not None:
        return key
    from cryptography.fernet import Fernet

    made: bytes = Fernet.generate_key()
    if not key_file:
        _keychain("set_password", made.decode())
        return made
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(made + b"\n")
    except OSError as error:
        raise SettingsError(f"{KEY_FILE}={path} cannot be written: {error.strerror}.") from None
    return made


# Kept per state of the file: workers are forked, and some keychains fail in a fork.
@lru_cache(4)
def _opened(path: Path, _: tuple[int, int], key_file: str) -> str:
    return unseal(path, find_key(key_file))


def _cipher(key: bytes) -> Any:
    from cryptography.fernet import Fernet

    try:
        return Fernet(key)
    except ValueError:
        raise SettingsError(
            f"What {KEY_FILE} or the keychain holds is no key: it is 32 bytes in base64, as "
            "`vllm-obtain config encrypt` makes it."
        ) from None


def _invalid() -> type[Exception]:
    from cryptography.fernet import InvalidToken

    return InvalidToken


def _from_file(path: Path) -> bytes | None:
    try:
        return path.read_bytes().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SettingsError(f"{KEY_FILE}={path} cannot be read: {error.strerror}.") from None


def _from_keychain() -> bytes | None:
    found = _keychain("get_password")
    return str(found).encode() if found is not None else None


def _keychain(verb: str, *more: str) -> Any:
    try:
        import keyring
        from keyring.errors import KeyringError, NoKeyringError
    except ImportError:
        raise SettingsError(_NO_KEYRING) from None
    try:
        return getattr(keyring, verb)(_SERVICE, _ACCOUNT, *more)
    except NoKeyringError:
        raise SettingsError(_NO_KEYRING) from None
    except KeyringError as error:
        raise SettingsError(
            f"The keychain did not give the key of the encrypted settings: {error}. Unlock it, or "
            f"set {KEY_FILE}."
        ) from None
