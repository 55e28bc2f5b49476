"""Keys: made, listed and revoked by hand while the service runs; kept as hashes alone."""

from __future__ import annotations

import json
import stat
import threading
import time
from pathlib import Path

import pytest

from tests.access.helpers import KeyedService, bearer, command
from tests.waiting import eventually
from vllm_obtain.access import api_key as keys
from vllm_obtain.access import key_store
from vllm_obtain.access.authenticator import Authenticator
from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import StartError, Unauthorized

CLI = ("-m", "vllm_obtain", "keys")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.serial
def test_a_service_without_keys_is_closed_by_the_first_one_and_follows_the_file(
    tmp_path: Path,
) -> None:
    with KeyedService(tmp_path, keyed=False) as service:
        assert service.status_of({}) == 200
        env = {"KEYS_FILE": str(service.keys_file)}
        made = command(*CLI, "create", "--name", "laptop", env=env)
        began = time.monotonic()
        token = made.stdout.strip()
        assert made.returncode == 0 and token.startswith("vo-")
        eventually(lambda: service.status_of({}) == 401)
        assert service.status_of(bearer(token)) == 200
        assert time.monotonic() - began < 1
        (listed,) = json.loads(command(*CLI, "list", "--json", env=env).stdout)
        assert (listed["name"], listed["scopes"], listed["expires"]) == (
            "laptop",
            ["inference"],
            None,
        )
        done = command(*CLI, "revoke", listed["id"], env=env)
        began = time.monotonic()
        assert done.returncode == 0 and "all requests are rejected" in done.stderr
        eventually(lambda: service.status_of(bearer(token)) == 401)
        assert time.monotonic() - began < 1
        # What was needed once stays needed, whatever becomes of the file.
        service.keys_file.unlink()
        time.sleep(0.6)
        assert service.status_of({}) == 401


def test_the_file_holds_hashes_alone_and_is_its_owners(tmp_path: Path) -> None:
    env = {"KEYS_FILE": str(tmp_path / "sub" / "keys.json")}
    told = command(*CLI, "create", "--scope", "admin", "--expires", "2h", env=env)
    token = told.stdout.strip()
    file = tmp_path / "sub" / "keys.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token.rpartition("-")[2] not in file.read_text()
    (key,) = key_store.read(file)
    assert key.matches(keys.digest(token)) and key.scopes == ["admin"]
    assert 7100 < (key.expires or 0) - time.time() <= 7200
    assert key.id in command(*CLI, "list", env=env).stdout
    assert [path.name for path in file.parent.iterdir()] == ["keys.json"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["revoke", "nope"], 1, "Unknown key id nope"),
        (["create", "--expires", "soon"], 2, "12h"),
        (["create", "--scope", "root"], 2, "admin"),
    ],
)
def test_what_cannot_be_done_is_said(
    tmp_path: Path, words: list[str], status: int, said: str
) -> None:
    done = command(*CLI, *words, env={"KEYS_FILE": str(tmp_path / "keys.json")})
    assert done.returncode == status and said in done.stderr
    assert not (tmp_path / "keys.json").exists() or not key_store.read(tmp_path / "keys.json")


def authenticator(file: Path, clock: Clock) -> Authenticator:
    return Authenticator(Settings.load({"KEYS_FILE": str(file)}), clock)


def test_an_expired_key_is_refused(tmp_path: Path) -> None:
    token, made = keys.new(["inference"], expires=int(time.time()) - 1)
    key_store.change(tmp_path / "k", lambda _: [made])
    with pytest.raises(Unauthorized, match="has expired"):
        authenticator(tmp_path / "k", Clock()).admit([token])


def test_many_at_once_lose_no_key(tmp_path: Path) -> None:
    def add() -> None:
        for _ in range(5):
            key_store.change(tmp_path / "k", lambda known: [*known, keys.new(["inference"])[1]])

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(key_store.read(tmp_path / "k")) == 20


def test_a_file_that_breaks_leaves_the_keys_as_they_were(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "k"
    token, made = keys.new(["inference"])
    key_store.change(file, lambda _: [made])
    held = authenticator(file, clock)
    for text, mode in (("{", 0o600), (file.read_text(), 0o666)):
        file.write_text(text)
        file.chmod(mode)
        clock.now += 1
        assert held.required and held.admit([token]).id == made.id
        with pytest.raises(StartError, match="vllm-obtain keys"):
            authenticator(file, clock)


def test_the_file_is_looked_at_by_the_clock_and_not_by_request(tmp_path: Path) -> None:
    clock, file = Clock(), tmp_path / "k"
    held = authenticator(file, clock)
    assert not held.required
    key_store.change(file, lambda _: [keys.new(["inference"])[1]])
    assert not held.required
    clock.now += 0.6
    assert held.required


def test_an_empty_file_lets_nobody_in(tmp_path: Path) -> None:
    key_store.change(tmp_path / "k", lambda _: [])
    held = authenticator(tmp_path / "k", Clock())
    assert held.required
    with pytest.raises(Unauthorized):
        held.admit(["anything"])
