"""Tools for models whose template knows none: described in words, called in a form of ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vllm_obtain.chat.call_format import CallFormat

# The form that most models have seen: Hermes' and Qwen's.
FORMAT = CallFormat(
    begin='<tool_call>\n{"name": "',
    middle='", "arguments": ',
    between='}\n</tool_call>\n<tool_call>\n{"name": "',
    end="}\n</tool_call>",
)

_WORDS = """You can call functions. These are they, one in JSON per line:
<tools>
{tools}
</tools>
To call a function, answer with its name and its arguments:
{example}
Answer in plain text when no function is of use."""
_EXAMPLE = FORMAT.write([("name of the function", '{"name of an argument": "its value"}')])


def described(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], system: bool = True
) -> list[dict[str, Any]]:
    """Write a conversation with tools in terms of one without.

    Args:
        messages: as templates with tools would get them.
        tools: those that may be called now; none leaves out their description.
        system: whether the template takes a message of the system.

    Returns:
        Messages of the roles system, user and assistant, all with a text.
    """
    told = _plain_turns(messages)
    if not tools:
        return told
    lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    words = _WORDS.format(tools=lines, example=_EXAMPLE)
    if system and told[0]["role"] == "system":
        told[0] = {**told[0], "content": f"{told[0]['content']}\n\n{words}"}
        return told
    asked = None if system else next((m for m in told if m["role"] == "user"), None)
    if asked is None:
        return [{"role": "system", "content": words}, *told]
    told[told.index(asked)] = {**asked, "content": f"{words}\n\n{asked['content']}"}
    return told


def _plain_turns(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Write each message without tools; what several tools came to is one turn of the user's.

    Many templates refuse two in a row.
    """
    told: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        plain = _plain(message)
        if plain["role"] == "user" and number and messages[number - 1]["role"] == "tool":
            plain = {**plain, "content": f"{told.pop()['content']}\n{plain['content']}"}
        told.append(plain)
    return told


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        answer = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": answer}
    if calls := message.get("tool_calls"):
        spelled = FORMAT.write(
            [(call["function"]["name"], _json(call["function"]["arguments"])) for call in calls]
        )
        text = message["content"]
        rest = {name: value for name, value in message.items() if name != "tool_calls"}
        return {**rest, "content": f"{text}\n{spelled}" if text else spelled}
    return message


def _json(arguments: Any) -> str:
    return json.dumps(arguments, ensure_ascii=False)
