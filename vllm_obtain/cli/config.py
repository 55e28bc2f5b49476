"""`vllm-obtain config`: encrypted settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from vllm_obtain.config import encrypted_file, sources
from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import SettingsError

app = typer.Typer(help="Encrypt and decrypt the settings.", no_args_is_help=True)

DOTENV = Path(".env")


@app.command()
def encrypt(
    remove: Annotated[bool, typer.Option(help="Remove .env afterwards.")] = False,
) -> None:
    """Encrypt .env to .env.encrypted. The service reads it in place of .env."""
    with _exit_on_error():
        if not DOTENV.is_file():
            sys.exit(
                "No .env file in the working directory. Create one with your settings, "
                "then encrypt it."
            )
        text = DOTENV.read_text()
        # Invalid values are easier to correct before they are encrypted.
        Settings.load(sources.plain(DOTENV))
        key_file = _key_file()
        content = encrypted_file.seal(text, encrypted_file.find_or_make_key(key_file))
        target = sources.encrypted(DOTENV)
        target.write_bytes(content)
        target.chmod(0o600)
    where = f"in {key_file}; store it apart from the settings" if key_file else "in the keychain"
    typer.echo(f"Wrote {target}. The key is {where}.")
    if remove:
        _remove(key_file)
    else:
        typer.echo(
            f"{DOTENV} still contains the settings in plain text. Remove it, or use --remove."
        )


@app.command()
def decrypt(
    out: Annotated[
        Path | None, typer.Option(help="Output file, created with mode 600 (default: terminal).")
    ] = None,
) -> None:
    """Print the settings in .env.encrypted."""
    with _exit_on_error():
        source = sources.encrypted(DOTENV)
        text = encrypted_file.unseal(source, encrypted_file.find_key(_key_file()))
        if out is None:
            typer.echo(text, nl=False)
            return
        with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    typer.echo(f"Wrote {out}.")


def _key_file() -> str:
    values = {**sources.plain(DOTENV), **os.environ}
    return values.get(encrypted_file.KEY_FILE, "").strip()


def _remove(key_file: str) -> None:
    # Decryption needs the path of the key file, so that setting stays in plain text.
    if key_file and not os.environ.get(encrypted_file.KEY_FILE):
        DOTENV.write_text(f"{encrypted_file.KEY_FILE}={key_file}\n")
        typer.echo(f"Removed all settings but {encrypted_file.KEY_FILE} from {DOTENV}.")
        return
    DOTENV.unlink()
    typer.echo(f"Removed {DOTENV}.")


@contextmanager
def _exit_on_error() -> Iterator[None]:
    try:
        yield
    except SettingsError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}.")
