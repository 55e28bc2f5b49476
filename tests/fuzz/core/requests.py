"""Bodies of requests of all APIs, through their parsers and translators."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec

from tests.fuzz.core.loop import Case
from tests.fuzz.core.mutate import alter, as_json, damage, pick
from vllm_obtain.errors import ServiceError
from vllm_obtain.gateway.anthropic.request_types import parse_count, parse_messages
from vllm_obtain.gateway.anthropic.translate import translate
from vllm_obtain.gateway.ollama import translate as ollama
from vllm_obtain.gateway.ollama.request_types import ChatBody, GenerateBody
from vllm_obtain.gateway.responses.items import ItemReference
from vllm_obtain.gateway.responses.parse import parse as parse_response
from vllm_obtain.gateway.responses.translate import to_chat, to_responses_error
from vllm_obtain.protocol.embeddings import parse_embedding, parse_rerank
from vllm_obtain.protocol.parsing import decode, parse_chat, parse_completion
from vllm_obtain.protocol.tokenize import parse_detokenize, parse_tokenize

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
FUNCTION = {"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}
TOOLS = [{"type": "function", "function": FUNCTION}]
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": "b"}'}}
IMAGE = "data:image/png;base64,iVBORw0KGgo="

CHATS: list[Any] = [
    {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "31"},
        ],
        "tools": TOOLS,
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
    },
    {
        "messages": [
            {
                "role": "user",
                "name": "n",
                "content": [{"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}}],
            }
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "n": 2,
        "stop": ["a", "b"],
        "seed": 7,
        "logit_bias": {"5": -100},
        "logprobs": True,
        "top_logprobs": 2,
        "user": "u",
        "metadata": {"a": "b"},
    },
    {
        "messages": [{"role": "developer", "content": "x"}, {"role": "user", "content": "y"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
        "reasoning_effort": "low",
        "max_completion_tokens": 9,
        "frequency_penalty": 1,
        "presence_penalty": -1,
        "repetition_penalty": 1.1,
        "guided_choice": ["a", "b"],
    },
]
TEXTS: list[Any] = [
    {"prompt": "Once", "max_tokens": 4, "echo": False, "suffix": None, "logprobs": 2, "best_of": 1},
    {"prompt": [1, 2, 3], "stream": True, "stop": "x", "n": 1, "top_k": 4, "min_p": 0.1},
]
RESPONSES: list[Any] = [
    {"input": "Hi", "instructions": "Be kind.", "store": False, "max_output_tokens": 5},
    {
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "31"},
            {"role": "assistant", "content": "x"},
            {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "x"},
            {"type": "item_reference", "id": "i"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": SCHEMA}],
        "tool_choice": {"type": "function", "name": "f"},
        "text": {"format": {"type": "json_schema", "name": "s", "schema": SCHEMA}},
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["message.output_text.logprobs"],
        "previous_response_id": "resp_1",
        "metadata": {"a": "b"},
    },
]
MESSAGES: list[Any] = [
    {
        "model": "m",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "t", "signature": "s"},
                    {"type": "text", "text": "x"},
                    {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": "b"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t1", "content": "31"},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"},
                    },
                ],
            },
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
        "tool_choice": {"type": "tool", "name": "f"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "metadata": {"user_id": "u"},
        "stop_sequences": ["x"],
        "temperature": 0.5,
    },
]
OLLAMA: list[Any] = [
    {
        "model": "m",
        "messages": [
            {"role": "user", "content": "Hi", "images": ["iVBORw0KGgo="]},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"function": {"name": "f", "arguments": {"a": "b"}}}],
            },
            {"role": "tool", "tool_name": "f", "content": "31"},
        ],
        "tools": TOOLS,
        "format": SCHEMA,
        "think": "low",
        "stream": False,
        "keep_alive": "5m",
        "options": {"temperature": 0, "num_predict": 5, "stop": ["x"], "seed": 1, "num_ctx": 100},
    },
]
GENERATE: list[Any] = [
    {
        "model": "m",
        "prompt": "Hi",
        "suffix": "",
        "system": "s",
        "template": "",
        "raw": True,
        "format": "json",
        "context": [1, 2],
        "images": [],
        "keep_alive": -1,
        "options": {"top_k": 4, "num_predict": -1},
    },
]
OTHERS: list[Any] = [
    {"input": ["a", "b"], "model": "m", "encoding_format": "base64", "dimensions": 8, "user": "u"},
    {"query": "q", "documents": ["a", {"text": "b"}], "top_n": 1, "return_documents": True},
    {"prompt": "Hi", "add_special_tokens": True, "return_token_strs": True},
    {"tokens": [1, 2, 3], "model": "m"},
]

_chat, _generate = msgspec.json.Decoder(ChatBody), msgspec.json.Decoder(GenerateBody)


def _lenient(body: bytes) -> None:
    ignored: list[str] = []
    parse_chat(body, ignored)


def _response(body: bytes) -> None:
    try:
        asked, items = parse_response(body, [])
        to_chat(asked, [item for item in items if not isinstance(item, ItemReference)])
    except ServiceError as error:
        raise to_responses_error(error) from None


def _ollama(body: bytes) -> None:
    request = decode(body, _chat, [])
    ollama.seconds(request.keep_alive)
    ollama.chat(request)


def _ollama_text(body: bytes) -> None:
    request = decode(body, _generate, [])
    ollama.seconds(request.keep_alive)
    ollama.generate(request)


READERS: list[tuple[Callable[[bytes], object], list[Any]]] = [
    (parse_chat, CHATS),
    (_lenient, CHATS),
    (parse_completion, TEXTS),
    (_response, RESPONSES),
    (lambda body: translate(parse_messages(body, []), takes_effort=True), MESSAGES),
    (lambda body: translate(parse_count(body, []), takes_effort=False), MESSAGES),
    (_ollama, OLLAMA),
    (_ollama_text, GENERATE),
    (parse_embedding, OTHERS),
    (parse_rerank, OTHERS),
    (parse_tokenize, OTHERS),
    (parse_detokenize, OTHERS),
]


class Requests:
    """Every parser with what it is made for, damaged; now and then with what it is not."""

    name = "requests"

    def make(self, chance: Random) -> Case:
        """A reader's number, and a body."""
        at = int(chance.random() * len(READERS))
        among = READERS[at][1] if chance.random() < 0.95 else pick(chance, READERS)[1]
        value = alter(pick(chance, among), chance)
        body = as_json(value)
        return [bytes([at]), damage(body, chance) if chance.random() < 0.3 else body]

    def run(self, case: Case) -> None:
        """Read it; a refusal has to be the client's fault."""
        if len(case) != 2 or len(case[0]) != 1 or case[0][0] >= len(READERS):
            return  # made too small
        try:
            READERS[case[0][0]][0](case[1])
        except ServiceError as error:
            if not 400 <= error.status < 500:
                raise
            error.message.encode()
