"""Tools for models whose template does not support them: described in a prompt of our own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vllm_obtain.chat.tool_call_format import ToolCallFormat

# The format that most models know: that of Hermes and Qwen.
FORMAT = ToolCallFormat(
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


def with_tool_prompt(
    messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]], system: bool = True
) -> list[dict[str, Any]]:
    """Rewrite a chat with tools as one without.

    Args:
        messages: messages as for templates with tools.
        tools: tools that may be called now; if empty, no tools are described.
        system: whether the template accepts a system message.

    Returns:
        Messages with the roles system, user and assistant, all with a text.
    """
    plain = _plain_messages(messages)
    if not tools:
        return plain
    lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    prompt = _WORDS.format(tools=lines, example=_EXAMPLE)
    if system and plain[0]["role"] == "system":
        plain[0] = {**plain[0], "content": f"{plain[0]['content']}\n\n{prompt}"}
        return plain
    user = None if system else next((m for m in plain if m["role"] == "user"), None)
    if user is None:
        return [{"role": "system", "content": prompt}, *plain]
    plain[plain.index(user)] = {**user, "content": f"{prompt}\n\n{user['content']}"}
    return plain


def _plain_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rewrite messages without tools; the results of several tools become one user message.

    Many templates reject two user messages in a row.
    """
    groups: list[tuple[dict[str, Any], list[Any]]] = []
    for number, message in enumerate(messages):
        plain, contents = _plain(message), []
        if plain["role"] == "user" and number and messages[number - 1]["role"] == "tool":
            contents = groups.pop()[1]
        contents.append(plain["content"])
        groups.append((plain, contents))
    return [
        plain if len(contents) == 1 else {**plain, "content": "\n".join(contents)}
        for plain, contents in groups
    ]


def _plain(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        answer = f"<tool_response>\n{message['content']}\n</tool_response>"
        return {"role": "user", "content": answer}
    if calls := message.get("tool_calls"):
        text_calls = FORMAT.write(
            [(call["function"]["name"], _json(call["function"]["arguments"])) for call in calls]
        )
        text = message["content"]
        rest = {name: value for name, value in message.items() if name != "tool_calls"}
        return {**rest, "content": f"{text}\n{text_calls}" if text else text_calls}
    return message


def _json(arguments: Any) -> str:
    return json.dumps(arguments, ensure_ascii=False)
