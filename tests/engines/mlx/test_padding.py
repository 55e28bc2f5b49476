"""How prompts are padded and cut into pieces and parts: nobody may see it in an answer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.mlx.client import GREEDY, Server, run_server
from tests.engines.mlx.model import write_model

pytestmark = pytest.mark.engine

STEP = 32
LONG = "".join(chr(97 + n * n % 23) for n in range(300))
ASKED = {"max_tokens": 24, "ignore_eos": True, "logprobs": 0, **GREEDY}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("mlx") / "tiny")


@pytest.fixture(scope="module")
def servers(folder: Path) -> Iterator[tuple[Server, Server]]:
    """A server that pads and computes pieces in parts, and one that does neither."""
    with tempfile.TemporaryDirectory(dir="/tmp") as one, tempfile.TemporaryDirectory() as other:
        limits = {"slots": 8, "context": 1200, "prefill_chunk": 64}
        with (
            run_server(folder, Path(one), **limits, prompt_step=STEP, prefill_parts=2) as padding,
            run_server(folder, Path(other), **limits) as plain,
        ):
            yield padding, plain


@pytest.mark.parametrize("length", [2, 31, 32, 33, 34, 64, 65, 66, 97, 129, 300])
def test_padding_does_not_change_completions(servers: tuple[Server, Server], length: int) -> None:
    answers = [server.complete(LONG[:length], **ASKED) for server in servers]
    one, other = ([entry["id"] for entry in answer.logprobs] for answer in answers)
    assert one == other and len(one) == 24
    assert answers[0].usage["prompt_tokens"] == answers[1].usage["prompt_tokens"] == length


def test_padding_does_not_change_completions_of_concurrent_prompts(
    servers: tuple[Server, Server],
) -> None:
    texts = [f"{number} of them " + LONG[: 9 * number] for number in range(1, 8)]
    texts += [LONG[::-1][:40]] * 2
    answers = [
        [stream.read() for stream in [server.stream(text, **ASKED) for text in texts]]
        for server in servers
    ]
    one, other = ([[e["id"] for e in answer.logprobs] for answer in told] for told in answers)
    assert one == other


def test_cached_prefixes_are_used_in_multiples_of_the_step(servers: tuple[Server, Server]) -> None:
    padding, plain = servers
    first = "Something that is said first, and again." + LONG[:51]
    for server, kept in ((padding, 64), (plain, 91)):
        server.complete(first, **ASKED)
        again = server.complete(first + " And then?", **ASKED)
        assert again.cached == kept
    assert padding.complete(first, **ASKED).text == plain.complete(first, **ASKED).text


def test_padding_does_not_change_long_prompts_beside_running_streams(
    servers: tuple[Server, Server],
) -> None:
    told = []
    for server in servers:
        running = server.stream("running along", max_tokens=400, ignore_eos=True, **GREEDY)
        running.until(b'"text"')
        long = [server.stream(f"{number}" + LONG, **ASKED) for number in range(2)]
        told.append([[e["id"] for e in stream.read().logprobs] for stream in long])
        assert len(running.read().text) > 0
    assert told[0] == told[1]


def test_the_prefill_of_a_disconnected_client_is_cached(servers: tuple[Server, Server]) -> None:
    padding, _ = servers
    busy = padding.stream("busy all the time", max_tokens=700, ignore_eos=True, **GREEDY)
    busy.until(b'"text"')
    text = "what was begun: " + LONG[::-1] * 3
    gone = padding.stream(text, **ASKED)
    gone.until(b'"processed":128')
    gone.close()
    padding.until(lambda now: now["running"] == 1)
    again = padding.complete(text, **ASKED)
    busy.close()
    assert again.cached >= 128
    padding.until(lambda now: now["running"] == 0)
    assert again.text == padding.complete(text, **ASKED).text
