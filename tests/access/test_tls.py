"""HTTPS, in production and in development."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import ipaddress
import json
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.access.helpers import CHAT, HI, KeyedService, bearer, command
from tests.fake_engine import write_model
from tests.waiting import eventually
from vllm_obtain.access import tls
from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import StartError

pytestmark = pytest.mark.slow


def certificate(folder: Path, name: str = "tls", password: bytes | None = None) -> dict[str, str]:
    """Make a certificate for 127.0.0.1; the settings that name it."""
    key = ec.generate_private_key(ec.SECP256R1())
    who = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(who)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .sign(key, hashes.SHA256())
    )
    encryption: Any = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password)
    files = folder / f"{name}.crt", folder / f"{name}.key"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    files[1].chmod(0o600)
    return {"TLS_CERTFILE": str(files[0]), "TLS_KEYFILE": str(files[1])}


class TLSService(KeyedService):
    """A service that speaks HTTPS."""

    def __init__(self, folder: Path, *words: str) -> None:
        env = certificate(folder)
        super().__init__(folder, env, words or ("run.py", "--no-fetch"))
        models = folder / "models"
        write_model(models, "hung", hang_before_first_byte=str(folder / "never"))
        write_model(models, "slow", pace=0.2)
        self.context = ssl.create_default_context(cafile=env["TLS_CERTFILE"])

    def connect(self, version: ssl.TLSVersion | None = None) -> ssl.SSLSocket:
        """A connection on which a request was sent for each of the words."""
        context = ssl.create_default_context(cafile=str(self.folder / "tls.crt"))
        if version is not None:
            context.maximum_version = version
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")

    def begin(self, line: ssl.SSLSocket, model: str, stream: bool) -> None:
        """Send a chat and do not wait for its answer."""
        body = json.dumps({**CHAT, "model": model, "stream": stream, "max_tokens": 500}).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nx-api-key: {self.user}\r\n"
        )
        line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def in_flight(self) -> int:
        _, _, body = self.request("/v1/system/status", headers=bearer(self.user))
        return int(json.loads(body)["requests_in_flight"])


@pytest.fixture(scope="module", params=["prod", "dev"])
def tls_service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TLSService]:
    words = {"prod": ["run.py", "--no-fetch"], "dev": ["-m", "src.api.app"]}[request.param]
    with TLSService(tmp_path_factory.mktemp("tls"), *words) as service:
        yield service


def test_chats_and_streams_over_tls(tls_service: TLSService) -> None:
    assert any("is ready: https://" in line for line in tls_service.lines)
    assert tls_service.context is not None
    with (
        httpx.Client(verify=tls_service.context) as plain,
        openai.OpenAI(
            base_url=f"{tls_service.url}/v1", api_key=tls_service.user, http_client=plain
        ) as client,
    ):
        asked: Any = {"model": "fine", "messages": HI}
        whole = client.chat.completions.create(**asked).choices[0].message.content
        pieces = [
            chunk.choices[0].delta.content or ""
            for chunk in client.chat.completions.create(**asked, stream=True)
            if chunk.choices
        ]
        assert whole and "".join(pieces) == whole


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("polite", [False, True], ids=["cut", "goodbye"])
@pytest.mark.parametrize(("model", "stream"), [("hung", False), ("hung", True), ("slow", True)])
def test_a_disconnect_frees_the_slot(
    tls_service: TLSService, model: str, stream: bool, polite: bool, version: ssl.TLSVersion
) -> None:
    line = tls_service.connect(version)
    tls_service.begin(line, model, stream)
    eventually(lambda: tls_service.in_flight() == 1)
    if polite:
        # Says goodbye, and leaves the connection below open.
        line.settimeout(0)
        with pytest.raises((ssl.SSLError, OSError, ValueError)):
            line.unwrap()
            raise OSError
    else:
        line.close()
    eventually(lambda: tls_service.in_flight() == 0, timeout=3)
    line.close()


def test_plain_http_gets_nothing_and_harms_nothing(tls_service: TLSService) -> None:
    with socket.create_connection(("127.0.0.1", tls_service.port), timeout=10) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert b"200" not in plain.recv(1000)
    assert tls_service.request("/health")[0] == 200


def test_it_ends_at_once_with_an_idle_connection(tmp_path: Path) -> None:
    with TLSService(tmp_path) as service:
        line = http.client.HTTPSConnection("127.0.0.1", service.port, context=service.context)
        line.request("GET", "/health")
        assert line.getresponse().read()
        service.signal(signal.SIGTERM)
        service.wait_until_gone(3)
        line.close()


def test_files_that_cannot_be_used_stop_the_start(tmp_path: Path) -> None:
    good, other = certificate(tmp_path), certificate(tmp_path, "other")
    locked = certificate(tmp_path, "locked", b"secret")
    text = tmp_path / "text"
    text.write_text("hello")
    for env, said in (
        ({"TLS_CERTFILE": good["TLS_CERTFILE"]}, "Set both for HTTPS"),
        ({**good, "TLS_KEYFILE": str(tmp_path / "none")}, "No such file"),
        ({**good, "TLS_KEYFILE": other["TLS_KEYFILE"]}, "another certificate"),
        ({**good, "TLS_CERTFILE": str(text)}, "not PEM files"),
        (locked, "has a password"),
    ):
        with pytest.raises(StartError, match=said):
            tls.context(Settings.load(env))
    done = command("run.py", "--no-fetch", env={"TLS_CERTFILE": good["TLS_CERTFILE"]})
    assert (done.returncode, "Set both for HTTPS" in done.stderr) == (1, True), done.stderr


def test_nothing_older_than_tls_1_2(tmp_path: Path) -> None:
    made = tls.context(Settings.load(certificate(tmp_path)))
    assert made is not None and made.minimum_version == ssl.TLSVersion.TLSv1_2
    assert tls.context(Settings.load({})) is None
