"""Tool loops of SDKs: the client is real, the model's words are those of a script."""

from __future__ import annotations

import anthropic
import pytest

from tests.clients.scripts import call
from tests.profiles import Fakes


def test_the_tool_runner_of_anthropics_sdk(fakes: Fakes) -> None:
    script = [call("add", a=17, b=25), call("add", a=42, b=1), "The sum is 43."]
    name = fakes.add("runner", script=script)
    sums: list[int] = []

    @anthropic.beta_tool
    def add(a: int, b: int) -> str:
        """Add two numbers.

        Args:
            a: the first one.
            b: the second one.
        """
        sums.append(a + b)
        return str(a + b)

    with anthropic.Anthropic(base_url=fakes.url, api_key="none", max_retries=0) as client:
        runner = client.beta.messages.tool_runner(
            model=name,
            max_tokens=100,
            tools=[add],
            messages=[{"role": "user", "content": "Add 17, 25 and 1."}],
        )
        message = runner.until_done()
    assert sums == [42, 43]
    assert message.content[0].type == "text" and "43" in message.content[0].text


def test_a_thread_is_refused_as_clients_expect(fakes: Fakes) -> None:
    with (
        anthropic.Anthropic(base_url=fakes.url, api_key="none", max_retries=0) as client,
        pytest.raises(anthropic.BadRequestError) as raised,
    ):
        client.messages.create(
            model="fine",
            max_tokens=5,
            messages=[{"role": "user", "content": "x"}],
            extra_body={"thread": {"type": "new"}},
        )
    body = raised.value.body
    assert isinstance(body, dict)
    assert body["error"]["details"] == {"error_code": "thread_unsupported_request"}
