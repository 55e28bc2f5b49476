"""`vllm-obtain config`: settings in an encrypted file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from vllm_obtain import sealed, setting_sources
from vllm_obtain.errors import SettingsError
from vllm_obtain.settings import Settings

app = typer.Typer(help="Keep the settings encrypted.", no_args_is_help=True)

DOTENV = Path(".env")


@app.command()
def encrypt(
    remove: Annotated[bool, typer.Option(help="Remove .env afterwards.")] = False,
) -> None:
    """Encrypt .env into .env.encrypted, which the service reads in its place."""
    with _problems():
        if not DOTENV.is_file():
            sys.exit("There is no .env here: write your settings into one first.")
        text = DOTENV.read_text()
        # What the service would refuse shall not be found out when it can no longer be seen.
        Settings.load(setting_sources.plain(DOTENV))
        key_file = _key_file()
        content = sealed.seal(text, sealed.find_or_make_key(key_file))
        target = setting_sources.encrypted(DOTENV)
        target.write_bytes(content)
        target.chmod(0o600)
    where = f"in {key_file}: keep it apart from the settings" if key_file else "in the keychain"
    typer.echo(f"Wrote {target}. Its key is {where}.")
    if remove:
        _remove(key_file)
    else:
        typer.echo(f"{DOTENV} still has everything in the clear: remove it (or use --remove).")


@app.command()
def decrypt(
    out: Annotated[
        Path | None, typer.Option(help="Write there, with mode 600, and not to the terminal.")
    ] = None,
) -> None:
    """Show what .env.encrypted holds."""
    with _problems():
        source = setting_sources.encrypted(DOTENV)
        text = sealed.unseal(source, sealed.find_key(_key_file()))
        if out is None:
            typer.echo(text, nl=False)
            return
        with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    typer.echo(f"Wrote {out}.")


def _key_file() -> str:
    known = {**setting_sources.plain(DOTENV), **os.environ}
    return known.get(sealed.KEY_FILE, "").strip()


def _remove(key_file: str) -> None:
    # The name of the key's file is needed before anything can be decrypted.
    if key_file and not os.environ.get(sealed.KEY_FILE):
        DOTENV.write_text(f"{sealed.KEY_FILE}={key_file}\n")
        typer.echo(f"{DOTENV} has {sealed.KEY_FILE} alone now.")
        return
    DOTENV.unlink()
    typer.echo(f"Removed {DOTENV}.")


@contextmanager
def _problems() -> Iterator[None]:
    try:
        yield
    except SettingsError as error:
        sys.exit(str(error))
    except OSError as error:
        sys.exit(f"{error.filename}: {error.strerror}.")
