"""Who is let in: every route, every way to show a key, every shape of a refusal."""

from __future__ import annotations

import json

import pytest

from tests.access.helpers import CHAT, HI, KeyedService, bearer
from tests.waiting import eventually
from vllm_obtain.gateway.core.route import Route
from vllm_obtain.gateway.routes import ROUTES

CLOSED = [route for route in ROUTES if route.access != "open"]
ADMIN = [route for route in ROUTES if route.access == "admin"]


def path(route: Route) -> str:
    return route.template.replace("{name}", "fine").replace("{file}", "style.css")


def test_only_health_and_readiness_are_open() -> None:
    assert [route.path for route in ROUTES if route.access == "open"] == ["/health", "/ready"]


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), {"x-api-key": "wrong"}], ids=str)
def test_no_route_is_served_without_a_key(
    keyed_service: KeyedService, headers: dict[str, str]
) -> None:
    for route in CLOSED:
        status, got, body = keyed_service.ask(route.method, path(route), headers)
        assert status == 401, route.path
        assert got["www-authenticate"] == "Bearer"
        assert "keys create" in body.decode() and "wrong" not in body.decode()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("where", ["/", "/v1/models", "/no/such", "/v1/models/load"])
def test_nor_is_it_told_what_there_is(keyed_service: KeyedService, method: str, where: str) -> None:
    assert keyed_service.ask(method, where)[0] == 401


def test_health_and_readiness_answer_everybody(keyed_service: KeyedService) -> None:
    for where in ("/health", "/ready"):
        assert keyed_service.ask("GET", where)[0] == 200


@pytest.mark.parametrize(
    "form",
    [
        ("Authorization", "Bearer {}"),
        ("authorization", "bearer {}"),
        ("Authorization", "BEARER  {}"),
        ("x-api-key", "{}"),
        ("X-Api-Key", " {} "),
    ],
    ids=str,
)
def test_a_key_is_shown_in_either_header(
    keyed_service: KeyedService, form: tuple[str, str]
) -> None:
    assert keyed_service.status_of({form[0]: form[1].format(keyed_service.user)}) == 200


def test_one_good_key_is_enough(keyed_service: KeyedService) -> None:
    # Claude Code sends both headers when two variables are set.
    assert keyed_service.status_of({**bearer("other"), "x-api-key": keyed_service.user}) == 200


@pytest.mark.parametrize("form", ["Basic {}", "{}", "Bearer", "Bearer {}x", "Token {}"])
def test_other_forms_are_no_key(keyed_service: KeyedService, form: str) -> None:
    assert keyed_service.status_of({"Authorization": form.format(keyed_service.user)}) == 401


def test_refusals_have_the_shape_of_their_api(keyed_service: KeyedService) -> None:
    response = json.loads(keyed_service.ask("POST", "/v1/chat/completions")[2])["error"]
    assert response["code"] == "invalid_api_key" and response["type"] == "invalid_request_error"
    response = json.loads(keyed_service.ask("POST", "/v1/messages")[2])
    assert (response["type"], response["error"]["type"]) == ("error", "authentication_error")
    response = json.loads(keyed_service.ask("POST", "/api/chat")[2])
    assert isinstance(response["error"], str)


def test_a_key_for_text_loads_nothing(keyed_service: KeyedService) -> None:
    assert {route.path for route in ADMIN} >= {"/v1/models/load", "/v1/models/unload"}
    for route in ADMIN:
        status, _, body = keyed_service.ask(route.method, path(route), bearer(keyed_service.user))
        response = json.loads(body)["error"]
        # Ollama's errors are a sentence.
        code, message = (
            ("", response) if isinstance(response, str) else (response["code"], response["message"])
        )
        expected = "" if route.path.startswith("/api/") else "missing_scope"
        assert (status, code) == (403, expected), route.path
        assert "--scope admin" in message and keyed_service.user_id in message
    answer = keyed_service.ask(
        "POST", "/v1/models/load", bearer(keyed_service.admin), {"model_name": "fine"}
    )
    assert answer[0] == 200
    assert (
        keyed_service.ask("POST", "/v1/chat/completions", bearer(keyed_service.admin), CHAT)[0]
        == 200
    )


@pytest.mark.parametrize(
    ("where", "body"),
    [
        ("/api/chat", {"messages": []}),
        ("/api/chat", {"messages": HI}),
        ("/api/generate", {"prompt": ""}),
        ("/api/generate", {"prompt": "x"}),
        ("/api/embed", {"input": "x"}),
    ],
    ids=str,
)
def test_nor_does_it_unload_in_ollamas_way(
    keyed_service: KeyedService, where: str, body: dict[str, object]
) -> None:
    fields = {"model": "fine", "keep_alive": 0, **body}
    status, _, answer = keyed_service.ask("POST", where, bearer(keyed_service.user), fields)
    assert (status, "keep_alive" in answer.decode()) == (403, True), answer


def test_the_log_has_the_id_of_a_key_and_never_the_key(keyed_service: KeyedService) -> None:
    keyed_service.ask("GET", "/version", bearer(keyed_service.user) | {"X-Request-Id": "named"})
    keyed_service.ask("GET", "/version", bearer("vo-secret-attempt") | {"X-Request-Id": "refused"})

    def lines() -> dict[str, dict[str, object]]:
        found = keyed_service.logged("api_requests.log")
        return {str(line["request_id"]): line for line in found}

    eventually(lambda: {"named", "refused"} <= set(lines()))
    assert lines()["named"]["key"] == keyed_service.user_id
    assert (lines()["refused"]["status"], "key" in lines()["refused"]) == (401, False)
    written = [file.read_text() for file in (keyed_service.folder / "logs").iterdir()]
    secrets = [keyed_service.user, keyed_service.admin, "vo-secret-attempt"]
    assert not [secret for secret in secrets for text in written if secret in text]


@pytest.mark.slow
def test_no_process_of_an_engine_is_told_a_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    with KeyedService(
        tmp_path_factory.mktemp("own"),
        {"API_KEYS": "first-key-of-mine, second", "PUBLIC_DOCS": "true", "PUBLIC_METRICS": "true"},
        keyed=False,
    ) as service:
        assert "Bearer <your key>" in "\n".join(service.lines)
        for token in ("first-key-of-mine", "second"):
            assert service.status_of(bearer(token)) == 200
        assert service.status_of(bearer("first-key-of-mine,")) == 401
        # What its owner opens is open, the rest is not.
        for where in ("/docs", "/docs/style.css", "/openapi.json", "/metrics"):
            assert service.ask("GET", where)[0] == 200, where
        assert service.ask("GET", "/v1/system/status")[0] == 401
        response = json.loads(service.ask("GET", "/v1/system/status", bearer("second"))[2])
        (engine,) = [one["pid"] for one in response["engines"]]
        pids = {engine, response["supervisor"]["pid"]}
        environments = [p.environ() for p in service.processes() if p.pid in pids]
        assert len(environments) == 2
        assert not any("API_KEYS" in environment for environment in environments)
        warned = [line for line in service.lines if "short key found in API_KEYS" in line]
        assert len(warned) == 1 and "second" not in warned[0]
