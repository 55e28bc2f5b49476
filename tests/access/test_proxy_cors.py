"""Names, web pages, proxies and a prefix."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from tests.access.helpers import CHAT, KeyedService, bearer
from tests.waiting import eventually
from vllm_obtain.access.allowed_hosts import AllowedHosts
from vllm_obtain.access.trusted_proxies import TrustedProxies
from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import HostNotAllowed

PAGE = "https://app.example.com"
ASKING = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os,x-evil",
}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedService]:
    """A service without keys, behind a proxy on this machine."""
    env = {
        "ALLOWED_HOSTS": ".llm.example.com",
        "CORS_ORIGINS": PAGE,
        "TRUSTED_PROXIES": "127.0.0.1,10.0.0.0/8",
        "URL_PREFIX": "/llm/",
    }
    with KeyedService(tmp_path_factory.mktemp("edge"), env, keyed=False) as service:
        yield service


def code(body: bytes) -> str:
    return str(json.loads(body)["error"]["code"])


@pytest.mark.parametrize(
    "name",
    [
        "localhost",
        "LOCALHOST:8001",
        "127.0.0.1:8001",
        "[::1]:8001",
        "192.168.1.20",
        "100.101.102.103:8001",
        socket.gethostname(),
        f"{socket.gethostname().partition('.')[0]}.local",
        f"{socket.gethostname().partition('.')[0]}.tail1234.ts.net",
        socket.gethostname().partition(".")[0],
        "host.docker.internal:8001",
        "app.localhost",
        "a.llm.example.com",
        "llm.example.com.",
    ],
)
def test_names_of_this_machine_are_fine(edge: KeyedService, name: str) -> None:
    assert edge.ask("GET", "/v1/models", {"Host": name})[0] == 200


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "llm.example.com.evil.example",
        "xllm.example.com",
        "127.0.0.1.evil.example",
        "127.0.0.1@evil.example",
        "other.tail1234.ts.net",
        "localhost.evil.example:8001",
        # The DNS server of a network can answer with any name.
        "vllm-obtain:8001",
        "wpad",
    ],
)
def test_who_calls_it_by_another_name_is_refused(edge: KeyedService, name: str) -> None:
    for method, where in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/x")):
        status, _, body = edge.ask(method, where, {"Host": name})
        assert (status, code(body)) == (403, "host_not_allowed")
    assert "ALLOWED_HOSTS=" in json.loads(body)["error"]["message"]
    assert edge.ask("GET", "/health", {"Host": name})[0] == 200


def test_a_docker_service_name_needs_keys() -> None:
    hosts = AllowedHosts(Settings.load({}), "mac.fritz.box")
    hosts.check("vllm-obtain:8001", keyed=True)
    with pytest.raises(HostNotAllowed):
        hosts.check("vllm-obtain:8001")
    with pytest.raises(HostNotAllowed):
        hosts.check("evil.example", keyed=True)


def test_any_name_if_the_owner_wants_it() -> None:
    AllowedHosts(Settings.load({"ALLOWED_HOSTS": "*"})).check("evil.example")
    with pytest.raises(HostNotAllowed):
        AllowedHosts(Settings.load({}), "mac.fritz.box").check("fritz.box")


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:3000", "null"])
def test_a_page_from_elsewhere_is_refused_while_there_are_no_keys(
    edge: KeyedService, origin: str
) -> None:
    headers = {"Origin": origin, "Content-Type": "text/plain"}
    status, got, body = edge.ask("POST", "/v1/models/unload", headers, {"model_name": "fine"})
    assert (status, code(body)) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in got
    assert json.loads(edge.ask("GET", "/v1/system/status")[2])["engines"][0]["pid"]


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("mode", ["no-cors", "navigate"])
def test_an_image_or_a_link_of_another_page_is_refused(
    edge: KeyedService, site: str, mode: str
) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": mode}
    for path in ("/v1/models/updates", "/v1/models", "/docs"):
        status, _, body = edge.ask("GET", path, headers)
        assert (status, code(body)) == (403, "origin_not_allowed"), path
    assert edge.ask("GET", "/health", headers)[0] == 200


@pytest.mark.parametrize("site", ["none", "same-origin"])
def test_an_address_that_the_user_types_is_not(edge: KeyedService, site: str) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"}
    assert edge.ask("GET", "/docs", headers)[0] == 200


def test_its_own_page_and_programs_are_not(edge: KeyedService) -> None:
    own = f"127.0.0.1:{edge.port}"
    for origin in (f"http://{own}", "app://obsidian.md", "vscode-webview://1", PAGE):
        assert edge.ask("GET", "/v1/models", {"Host": own, "Origin": origin})[0] == 200, origin


def test_an_allowed_page_may_ask_and_read(edge: KeyedService) -> None:
    status, got, _ = edge.ask("OPTIONS", "/v1/chat/completions", {"Origin": PAGE, **ASKING})
    assert status == 204 and got["access-control-allow-origin"] == PAGE
    assert got["access-control-allow-headers"] == "authorization, content-type, x-stainless-os"
    assert "POST" in got["access-control-allow-methods"]
    status, got, _ = edge.ask("POST", "/v1/chat/completions", {"Origin": PAGE}, CHAT)
    assert (status, got["access-control-allow-origin"], got["vary"]) == (200, PAGE, "Origin")
    assert "x-request-id" in got["access-control-expose-headers"]
    # Also an error must be readable, or the page knows nothing.
    assert "access-control-allow-origin" in edge.ask("GET", "/x", {"Origin": PAGE})[1]
    reply = edge.ask("OPTIONS", "/v1/models", {"Origin": "https://evil.example", **ASKING})[1]
    assert "access-control-allow-origin" not in reply


def test_no_page_is_allowed_by_default(keyed_service: KeyedService) -> None:
    for headers in ({"Origin": PAGE}, {"Origin": PAGE, **bearer(keyed_service.user)}):
        for method in ("OPTIONS", "GET"):
            got = keyed_service.ask(method, "/v1/models", {**headers, **ASKING})[1]
            assert not [name for name in got if name.startswith("access-control")]


def test_an_address_is_believed_from_trusted_proxies_only(edge: KeyedService) -> None:
    # Without keys only this machine is served: also through a proxy that says who asks.
    status, _, body = edge.ask("GET", "/v1/models", {"X-Forwarded-For": "203.0.113.9"})
    assert (status, code(body)) == (403, "keys_needed")
    made_up = {"X-Forwarded-For": "127.0.0.1, 203.0.113.9, 10.1.2.3", "X-Request-Id": "hop"}
    assert edge.ask("GET", "/v1/models", made_up)[0] == 403
    assert edge.ask("GET", "/v1/models", {"X-Forwarded-For": "127.0.0.1"})[0] == 200

    def line() -> object:
        found = [one for one in edge.logged("api_requests.log") if one["request_id"] == "hop"]
        return found and found[0]["client"]

    assert eventually(line) == "203.0.113.9"


def test_of_hops_the_first_that_is_no_proxy_counts() -> None:
    proxies = TrustedProxies(Settings.load({"TRUSTED_PROXIES": "10.0.0.0/8 ::1 unix"}))
    assert proxies.trusts("") and proxies.trusts("::1") and not proxies.trusts("127.0.0.1")
    assert proxies.trusts("::ffff:10.0.0.1")
    for forwarded, client in (
        ("1.2.3.4", "1.2.3.4"),
        ("9.9.9.9, 1.2.3.4:5678, 10.0.0.2", "1.2.3.4"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("evil", "10.0.0.1"),
        ("", "10.0.0.1"),
    ):
        assert proxies.client("10.0.0.1", forwarded) == client


def test_it_is_served_below_a_prefix_and_without_it(edge: KeyedService) -> None:
    for where in ("/llm/v1/models", "/v1/models", "/llm", "/llm/", "/llm/api/tags"):
        assert edge.ask("GET", where)[0] == 200, where
    assert edge.ask("GET", "/llmx/v1/models")[0] == 404
    assert isinstance(json.loads(edge.ask("GET", "/llm/api/nothing")[2])["error"], str)
    response = json.loads(edge.ask("GET", "/llm/openapi.json")[2])
    assert response["servers"] == [{"url": "/llm"}]
