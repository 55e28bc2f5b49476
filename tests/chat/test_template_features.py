"""What a template supports is found out once per revision, and kept if it is about the template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chat.templates import HERMES
from tests.chat.test_sandbox import LOOPS
from vllm_obtain.chat import sandbox, template_features
from vllm_obtain.chat.chat_template import TemplateError
from vllm_obtain.chat.template_features import TemplateFeatures, TemplateLimit


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "vllm-obtain" / "templates"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The operations that the sandbox was asked for."""
    operations: list[str] = []
    run = sandbox.run

    def record(operation: str, *arguments: Any) -> Any:
        operations.append(operation)
        return run(operation, *arguments)

    monkeypatch.setattr(sandbox, "run", record)
    return operations


def new_process() -> template_features._Known:
    return template_features._Known()


def features(known: template_features._Known, source: str = HERMES) -> TemplateFeatures:
    return known.get("m", source, "", "")


def test_what_is_found_out_is_kept_on_disk(cache: Path, calls: list[str]) -> None:
    found = features(new_process())
    assert found.tool_calls is not None and found.supports_system
    assert features(new_process()) == found
    assert calls == ["probe"]
    (file,) = cache.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_another_revision_is_another_template(calls: list[str]) -> None:
    known = new_process()
    assert features(known).tool_calls is not None
    assert features(known, "{{ messages[0].content }}").tool_calls is None
    assert calls == ["probe", "probe"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1]", b'{"tool_calls": 7}', b"\xff"],
)
def test_a_malformed_file_is_ignored_and_replaced(
    cache: Path, calls: list[str], content: bytes
) -> None:
    found = features(new_process())
    (file,) = cache.iterdir()
    file.write_bytes(content)
    assert features(new_process()) == found
    assert calls == ["probe", "probe"]
    assert file.read_bytes() != content


def test_a_file_that_others_may_write_is_ignored(cache: Path, calls: list[str]) -> None:
    features(new_process())
    (file,) = cache.iterdir()
    file.chmod(0o666)
    features(new_process())
    assert calls == ["probe", "probe"]


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "vllm-obtain").write_text("a file")
    assert features(new_process()).tool_calls is not None


def test_a_broken_template_is_kept_as_one(calls: list[str]) -> None:
    first, second = features(new_process(), "{% if %}"), features(new_process(), "{% if %}")
    assert first == second and "broken" in first.error
    assert calls == ["probe"]
    with pytest.raises(TemplateError, match="broken"):
        template_features.template_features("m", "{% if %}", "", "")


def test_a_limit_is_no_verdict_but_delays_the_next_attempt(
    cache: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = new_process()
    for _ in range(3):
        with pytest.raises(TemplateLimit, match=r"'m' takes too much CPU time.*'chat_template'"):
            features(known, LOOPS)
    assert calls == ["probe"] and not cache.exists()
    now = template_features.time.monotonic() + template_features._RETRY_SECONDS + 1
    monkeypatch.setattr(template_features.time, "monotonic", lambda: now)
    with pytest.raises(TemplateLimit):
        features(known, LOOPS)
    assert calls == ["probe", "probe"]


def test_a_format_of_calls_is_short() -> None:
    source = HERMES.replace("<tool_call>", "<tool_call>" + "x" * 5000)
    assert features(new_process(), source).tool_calls is None


def test_a_huge_template_is_refused_before_it_is_read() -> None:
    with pytest.raises(TemplateError, match="has 600,000 characters"):
        template_features.template_features("m", "x" * 600_000, "", "")
