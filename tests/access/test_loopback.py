"""Without keys, only this machine is served, however the service is started."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import psutil
import pytest

from tests.access.helpers import KeyedService, bearer, command
from tests.ports import free_port
from vllm_obtain.access.loopback import is_loopback

GUNICORN = ["-m", "gunicorn", "--bind", "{bind}", "--worker-class", "gevent"]
APP = "src.api.app:application"
ALL = "0.0.0.0"  # noqa: S104 - the address that must be refused


def external_address() -> str:
    """An address of this machine that others reach."""
    for addresses in psutil.net_if_addrs().values():
        for found in addresses:
            if found.family == socket.AF_INET and not is_loopback(found.address):
                return found.address
    pytest.skip("this machine has no address but its own")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "host"),
    [
        (["run.py", "--no-fetch"], ALL),
        (["run.py", "--no-fetch"], "::"),
        (["run.py", "--no-fetch", "--mode", "dev"], ALL),
        (["-m", "src.api.app"], ALL),
        (["-m", "vllm_obtain", "serve", "--no-fetch"], ALL),
        ([*GUNICORN, APP], ALL),
        ([*GUNICORN, "--bind", "127.0.0.1:{other}", APP], ALL),
    ],
    ids=["prod", "prod-6", "dev", "module", "serve", "gunicorn", "gunicorn-several"],
)
def test_it_does_not_start_where_others_reach_it(
    words: list[str], host: str, tmp_path: Path
) -> None:
    port = free_port()
    env = {"HOST": host, "PORT": str(port), "KEYS_FILE": str(tmp_path / "keys.json")}
    env |= {"LOG_DIR": str(tmp_path), "MODELS_DIR": str(tmp_path)}
    given = [word.format(bind=f"{host}:{port}", other=free_port()) for word in words]
    done = command(*given, env=env)
    assert done.returncode != 0
    assert "no API keys are configured" in done.stderr and "keys create" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_who_gets_around_that_finds_it_closed_to_others(tmp_path: Path) -> None:
    address = external_address()
    # A configuration of somebody's own: ours, which would look at the addresses, is not read.
    (tmp_path / "own.py").write_text("timeout = 60\n")
    words = [*GUNICORN, "-c", str(tmp_path / "own.py"), APP]
    words[words.index("{bind}")] = f"{ALL}:{{port}}"
    service = KeyedService(tmp_path, command=tuple(words), keyed=False)
    try:
        service.start(until="Booting worker")
        assert service.request("/v1/models")[0] == 200
        status, _, body = service.ask("GET", "/v1/models", host=address)
        assert (status, json.loads(body)["error"]["code"]) == (403, "keys_needed")
        assert service.ask("GET", "/health", host=address)[0] == 200
        token, _ = service.key("inference")
        time.sleep(0.6)
        assert service.ask("GET", "/v1/models", host=address)[0] == 401
        assert service.ask("GET", "/v1/models", bearer(token), host=address)[0] == 200
    finally:
        service.kill_everything()


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("fe80::1%eth0", False),
        (ALL, False),
        ("127.evil", False),
    ],
)
def test_which_peers_are_this_machine(address: str, here: bool) -> None:
    assert is_loopback(address) is here
