"""Fetching from real servers on this machine, with the look-up of names in our hands."""

from __future__ import annotations

import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vision.model import png
from tests.vision.pictures import Pictures
from vllm_obtain.images import fetch
from vllm_obtain.images.fetch import FetchError, ImageFetcher

PUBLIC = "93.184.216.34"


@pytest.fixture(scope="module")
def pictures() -> Iterator[Pictures]:
    with Pictures() as server:
        yield server


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """The answers of the name server, one after the other for each host; the last one stays."""
    answers: dict[str, list[list[str]]] = {}

    def resolve(host: str, _: int) -> list[str]:
        found = answers.get(host, [[host]])
        return found.pop(0) if len(found) > 1 else found[0]

    monkeypatch.setattr(fetch, "resolve", resolve)
    return answers


def get(url: str, private: bool = False, seconds: float = 5.0) -> bytes:
    return ImageFetcher(time.monotonic() + seconds, 1 << 20, private).get(url)


def test_private_addresses_are_for_those_who_allow_them(pictures: Pictures) -> None:
    assert get(f"{pictures.url}/1.png", private=True) == png(seed=1)
    before = list(pictures.requests)
    for host in ("127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"):
        with pytest.raises(FetchError, match="IMAGE_PRIVATE_ADDRESSES"):
            get(f"http://{host}:{pictures.port}/1.png")
    assert pictures.requests == before


def test_one_private_address_among_others_is_enough(
    pictures: Pictures, looked_up: dict[str, list[list[str]]]
) -> None:
    looked_up["both.test"] = [[PUBLIC, "127.0.0.1"]]
    with pytest.raises(FetchError, match="private"):
        get(f"http://both.test:{pictures.port}/1.png")


def test_every_hop_is_looked_at(
    pictures: Pictures,
    looked_up: dict[str, list[list[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A public server sends us to a private one: allowed is only the first."""
    looked_up["public.test"] = [["127.0.0.1"]]
    looked_up["inside.test"] = [["127.0.0.2"]]
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")
    there = f"http://inside.test:{pictures.port}/1.png"
    with pytest.raises(FetchError, match=r"'inside\.test' is at a private address"):
        get(f"http://public.test:{pictures.port}/to?{there}")
    assert get(f"http://public.test:{pictures.port}/to?/1.png") == png(seed=1)


def test_what_was_looked_at_is_what_is_connected_to(
    pictures: Pictures,
    looked_up: dict[str, list[list[str]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name server that says something else the second time is not asked a second time."""
    looked_up["moving.test"] = [["127.0.0.1"], ["127.0.0.2"]]
    events: list[str] = []
    monkeypatch.setattr(fetch, "is_public", lambda address: not events.append(address))
    assert get(f"http://moving.test:{pictures.port}/1.png") == png(seed=1)
    assert events == ["127.0.0.1"]
    assert looked_up["moving.test"] == [["127.0.0.2"]]


def test_the_next_address_is_tried(
    pictures: Pictures, looked_up: dict[str, list[list[str]]]
) -> None:
    looked_up["two.test"] = [["127.0.0.3", "127.0.0.1"]]
    assert get(f"http://two.test:{pictures.port}/1.png", private=True) == png(seed=1)


@pytest.mark.parametrize("what", ["resolve", "server"])
def test_the_deadline_is_for_all_of_it(
    pictures: Pictures, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    over = threading.Event()
    if what == "resolve":
        monkeypatch.setattr(fetch, "resolve", lambda *_: [str(over.wait(30))])
    began = time.monotonic()
    with pytest.raises(FetchError, match="IMAGE_FETCH_TIMEOUT"):
        get(f"{pictures.url}/silent", private=True, seconds=0.3)
    assert time.monotonic() - began < 3
    over.set()


def test_no_proxy_of_the_environment(pictures: Pictures, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert get(f"{pictures.url}/1.png", private=True) == png(seed=1)


def test_https_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key)]
    subprocess.run([*command, "-out", str(certificate)], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with Pictures(context) as pictures:
        url = f"https://localhost:{pictures.port}/1.png"
        fetch._context.cache_clear()
        with pytest.raises(FetchError, match="certificate of 'localhost' is not valid"):
            get(url, private=True)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        fetch._context.cache_clear()
        assert get(url, private=True) == png(seed=1)
        with pytest.raises(FetchError, match=r"certificate of '127\.0\.0\.1' is not valid"):
            get(url.replace("localhost", "127.0.0.1"), private=True)
    fetch._context.cache_clear()
