"""Secrets in files: who can read them, where they come from, and keeping them encrypted."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.access.helpers import KeyedService, bearer, command
from tests.service import ROOT
from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import SettingsError

CONFIG = ("-m", "vllm_obtain", "config")
SECRET = "a-value-that-is-long-enough"  # noqa: S105 - of these tests
# As if the package were not installed, and as if there were no keychain.
NONE = "keyring.backends.fail.Keyring"


def config(folder: Path, *words: str, **env: str) -> Any:
    return command(*CONFIG, *words, env=env, cwd=folder)


def write_settings(folder: Path, text: str = f"API_KEYS={SECRET}\nPORT=1234\n") -> Path:
    path = folder / ".env"
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.mark.slow
def test_settings_are_kept_encrypted_with_a_key_in_a_file(tmp_path: Path) -> None:
    write_settings(tmp_path)
    key = tmp_path / "elsewhere" / "key"
    done = config(tmp_path, "encrypt", "--remove", CONFIG_KEY_FILE=str(key))
    assert done.returncode == 0 and "store it apart" in done.stdout, done.stderr
    assert not (tmp_path / ".env").exists()
    made = tmp_path / ".env.encrypted"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (key, made)] == [0o600, 0o600]
    assert SECRET not in made.read_text() and "1234" not in made.read_text()
    shown = config(tmp_path, "decrypt", CONFIG_KEY_FILE=str(key))
    assert shown.stdout == f"API_KEYS={SECRET}\nPORT=1234\n"
    assert config(tmp_path, "decrypt", "--out", "x", CONFIG_KEY_FILE=str(key)).returncode == 0
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o600

    env = {"CONFIG_KEY_FILE": str(key)}
    read = Settings.load(env, tmp_path / ".env")
    assert (read.tokens, read.port) == ([SECRET], 1234)
    # The environment wins, then what is written in the clear.
    write_settings(tmp_path, "PORT=5\nDEBUG=true\n")
    assert Settings.load(env, tmp_path / ".env").port == 5
    assert Settings.load({**env, "PORT": "6"}, tmp_path / ".env").port == 6
    # Encrypted anew, with the same key.
    before = key.read_bytes()
    assert config(tmp_path, "encrypt", CONFIG_KEY_FILE=str(key)).returncode == 0
    assert key.read_bytes() == before


@pytest.mark.slow
def test_a_service_reads_them(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    write_settings(folder, f"API_KEYS={SECRET}\nCONFIG_KEY_FILE={tmp_path / 'key'}\n")
    done = config(folder, "encrypt", "--remove")
    assert done.returncode == 0 and "Removed all settings but CONFIG_KEY_FILE" in done.stdout, (
        done.stderr
    )
    assert (folder / ".env").read_text() == f"CONFIG_KEY_FILE={tmp_path / 'key'}\n"
    words = (str(ROOT / "run.py"), "--no-fetch")
    service = KeyedService(tmp_path, command=words, keyed=False)
    service._cwd = folder
    service._env["PYTHONPATH"] = str(ROOT)
    with service:
        assert service.status_of({}) == 401
        assert service.status_of(bearer(SECRET)) == 200
        environments = [str(process.environ()) for process in service.processes()]
        assert len(environments) > 3 and not any(SECRET in found for found in environments)


@pytest.mark.slow
def test_the_key_may_be_in_the_keychain(tmp_path: Path) -> None:
    write_settings(tmp_path)
    ring = {
        "PYTHON_KEYRING_BACKEND": "tests.access.ring.Ring",
        "RING_FILE": str(tmp_path / "ring"),
    }
    done = config(tmp_path, "encrypt", **ring)
    assert done.returncode == 0 and "in the keychain" in done.stdout, done.stderr
    assert "still contains the settings in plain text" in done.stdout
    assert SECRET in config(tmp_path, "decrypt", **ring).stdout
    (tmp_path / "ring").unlink()
    lost = config(tmp_path, "decrypt", **ring)
    assert lost.returncode == 1 and "The keychain has no key" in lost.stderr
    (tmp_path / "ring").mkdir()
    locked = config(tmp_path, "decrypt", **ring)
    assert locked.returncode == 1 and "it is locked. Unlock it" in locked.stderr
    none = config(tmp_path, "encrypt", PYTHON_KEYRING_BACKEND=NONE)
    assert none.returncode == 1 and "Set CONFIG_KEY_FILE" in none.stderr


def test_without_the_keychains_package_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env.encrypted").write_text("x")
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(SettingsError, match=r"pip install 'vllm-obtain\[keychain\]'"):
        Settings.load({}, tmp_path / ".env")


@pytest.mark.slow
def test_what_cannot_be_decrypted_stops_the_start(tmp_path: Path) -> None:
    write_settings(tmp_path)
    key, other = tmp_path / "key", tmp_path / "other"
    for file in (other, key):
        assert config(tmp_path, "encrypt", CONFIG_KEY_FILE=str(file)).returncode == 0
    sealed = tmp_path / ".env.encrypted"
    good = sealed.read_bytes()
    cases = [
        (good, other, "another key"),
        (good[:-20] + b"A" * 19 + b"\n", key, "has been changed"),
        (b"", key, "has been changed"),
        (good, tmp_path / "none", "does not exist"),
        (good, tmp_path / ".env", "Invalid encryption key"),
        (good, tmp_path, "Cannot read"),
    ]
    for content, file, said in cases:
        sealed.write_bytes(content)
        with pytest.raises(SettingsError, match=said):
            Settings.load({"CONFIG_KEY_FILE": str(file)}, tmp_path / ".env")
    sealed.write_bytes(b"")
    env = {"CONFIG_KEY_FILE": str(key), "PYTHONPATH": str(ROOT)}
    done = command(str(ROOT / "run.py"), "--no-fetch", env=env, cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert "has been changed" in done.stderr


def test_settings_that_would_be_refused_are_not_encrypted(tmp_path: Path) -> None:
    write_settings(tmp_path, "PORT=x\n")
    done = config(tmp_path, "encrypt", CONFIG_KEY_FILE=str(tmp_path / "key"))
    assert (
        done.returncode == 1
        and "PORT must be an integer between 1 and 65535, got 'x'." in done.stderr
    )
    (tmp_path / ".env").unlink()
    done = config(tmp_path, "encrypt")
    assert done.returncode == 1 and "No .env file" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_any_value_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{SECRET}\nsecond\n")
    (tmp_path / "port").write_text(" 1234\n")
    env = {"API_KEYS_FILE": str(tmp_path / "keys"), "PORT_FILE": str(tmp_path / "port")}
    read = Settings.load(env)
    assert (read.tokens, read.port) == ([SECRET, "second"], 1234)
    # What the service's own processes tell each other wins; and they need no files.
    assert Settings.load({**env, "PORT": "5"}).port == 5
    assert Settings.load({**read.environ(), "API_KEYS_FILE": "/gone"}).port == 1234
    # KEYS_FILE is no file with the value of KEYS.
    assert Settings.load({"KEYS_FILE": str(tmp_path / "none")}).keys_file == tmp_path / "none"


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"API_KEYS_FILE": "/no/such"}, "Cannot read API_KEYS_FILE=/no/such: No such file"),
        ({"API_KEYS_FILE": "/dev/null", "API_KEYS": SECRET}, "are both set"),
        ({"LOG_LEVEL_FILE": "/no-user/x"}, "Cannot read LOG_LEVEL_FILE=/no-user/x"),
    ],
)
def test_a_file_that_is_not_there_or_not_needed_is_said(env: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        Settings.load(env)
    assert SECRET not in str(caught.value)


def test_no_message_shows_a_key() -> None:
    settings = Settings.load({"API_KEYS": SECRET})
    assert SECRET not in repr(settings) and SECRET not in str(settings.environ())


@pytest.mark.parametrize("words", [("run.py", "--no-fetch"), ("-m", "src.api.app")])
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_a_readable_env_file_is_a_warning(
    tmp_path: Path, words: tuple[str, ...], mode: int
) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    write_settings(folder, "DEBUG=false\n").chmod(mode)
    given = (str(ROOT / "run.py"), *words[1:]) if words[0] == "run.py" else words
    service = KeyedService(tmp_path, command=given, keyed=False)
    service._cwd = folder
    service._env["PYTHONPATH"] = str(ROOT)
    with service:
        warned = [line for line in service.lines if "secret file exposed" in line]
        assert len(warned) == (mode == 0o644)
        assert all(str(folder / ".env") in line for line in warned)
