"""Who is let in: every route, every way to show a key, every shape of a refusal."""

from __future__ import annotations

import json

import pytest

from tests.access.helpers import CHAT, HI, Guarded, bearer
from tests.service import eventually
from vllm_obtain.api.route import Route
from vllm_obtain.api.routes import ROUTES

CLOSED = [route for route in ROUTES if route.access != "open"]
ADMIN = [route for route in ROUTES if route.access == "admin"]


def path(route: Route) -> str:
    return route.template.replace("{name}", "fine").replace("{file}", "style.css")


def test_only_health_and_readiness_are_open() -> None:
    assert [route.path for route in ROUTES if route.access == "open"] == ["/health", "/ready"]


@pytest.mark.parametrize("headers", [{}, bearer("wrong"), {"x-api-key": "wrong"}], ids=str)
def test_no_route_is_served_without_a_key(guarded: Guarded, headers: dict[str, str]) -> None:
    for route in CLOSED:
        status, got, body = guarded.ask(route.method, path(route), headers)
        assert status == 401, route.path
        assert got["www-authenticate"] == "Bearer"
        assert "keys create" in body.decode() and "wrong" not in body.decode()


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
@pytest.mark.parametrize("where", ["/", "/v1/models", "/no/such", "/v1/models/load"])
def test_nor_is_it_told_what_there_is(guarded: Guarded, method: str, where: str) -> None:
    assert guarded.ask(method, where)[0] == 401


def test_health_and_readiness_answer_everybody(guarded: Guarded) -> None:
    for where in ("/health", "/ready"):
        assert guarded.ask("GET", where)[0] == 200


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
def test_a_key_is_shown_in_either_header(guarded: Guarded, form: tuple[str, str]) -> None:
    assert guarded.status_of({form[0]: form[1].format(guarded.user)}) == 200


def test_one_good_key_is_enough(guarded: Guarded) -> None:
    # Claude Code sends both headers when two variables are set.
    assert guarded.status_of({**bearer("other"), "x-api-key": guarded.user}) == 200


@pytest.mark.parametrize("form", ["Basic {}", "{}", "Bearer", "Bearer {}x", "Token {}"])
def test_other_forms_are_no_key(guarded: Guarded, form: str) -> None:
    assert guarded.status_of({"Authorization": form.format(guarded.user)}) == 401


def test_refusals_have_the_shape_of_their_api(guarded: Guarded) -> None:
    told = json.loads(guarded.ask("POST", "/v1/chat/completions")[2])["error"]
    assert told["code"] == "invalid_api_key" and told["type"] == "invalid_request_error"
    told = json.loads(guarded.ask("POST", "/v1/messages")[2])
    assert (told["type"], told["error"]["type"]) == ("error", "authentication_error")
    told = json.loads(guarded.ask("POST", "/api/chat")[2])
    assert isinstance(told["error"], str)


def test_a_key_for_text_loads_nothing(guarded: Guarded) -> None:
    assert {route.path for route in ADMIN} >= {"/v1/models/load", "/v1/models/unload"}
    for route in ADMIN:
        status, _, body = guarded.ask(route.method, path(route), bearer(guarded.user))
        told = json.loads(body)["error"]
        # Ollama's errors are a sentence.
        code, message = ("", told) if isinstance(told, str) else (told["code"], told["message"])
        expected = "" if route.path.startswith("/api/") else "missing_scope"
        assert (status, code) == (403, expected), route.path
        assert "--scope admin" in message and guarded.user_id in message
    answer = guarded.ask("POST", "/v1/models/load", bearer(guarded.admin), {"model_name": "fine"})
    assert answer[0] == 200
    assert guarded.ask("POST", "/v1/chat/completions", bearer(guarded.admin), CHAT)[0] == 200


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
    guarded: Guarded, where: str, body: dict[str, object]
) -> None:
    asked = {"model": "fine", "keep_alive": 0, **body}
    status, _, answer = guarded.ask("POST", where, bearer(guarded.user), asked)
    assert (status, "keep_alive" in answer.decode()) == (403, True), answer


def test_the_log_has_the_id_of_a_key_and_never_the_key(guarded: Guarded) -> None:
    guarded.ask("GET", "/version", bearer(guarded.user) | {"X-Request-Id": "named"})
    guarded.ask("GET", "/version", bearer("vo-secret-attempt") | {"X-Request-Id": "refused"})

    def lines() -> dict[str, dict[str, object]]:
        found = guarded.logged("api_requests.log")
        return {str(line["request_id"]): line for line in found}

    eventually(lambda: {"named", "refused"} <= set(lines()))
    assert lines()["named"]["key"] == guarded.user_id
    assert (lines()["refused"]["status"], "key" in lines()["refused"]) == (401, False)
    written = [file.read_text() for file in (guarded.folder / "logs").iterdir()]
    secrets = [guarded.user, guarded.admin, "vo-secret-attempt"]
    assert not [secret for secret in secrets for text in written if secret in text]


def test_no_process_of_an_engine_is_told_a_key(tmp_path_factory: pytest.TempPathFactory) -> None:
    with Guarded(
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
        told = json.loads(service.ask("GET", "/v1/system/status", bearer("second"))[2])
        (engine,) = [one["pid"] for one in told["engines"]]
        pids = {engine, told["supervisor"]["pid"]}
        environments = [p.environ() for p in service.processes() if p.pid in pids]
        assert len(environments) == 2
        assert not any("API_KEYS" in environment for environment in environments)
        warned = [line for line in service.lines if "short enough to be guessed" in line]
        assert len(warned) == 1 and "second" not in warned[0]
