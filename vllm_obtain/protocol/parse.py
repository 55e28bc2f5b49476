"""From bytes to a checked request, and from a refusal to the field that is at fault."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec

from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.protocol.requests import ChatRequest, CompletionRequest

T = TypeVar("T")

_PATH = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]*)`")
_MISSING_FIELD = re.compile(r"missing required field `([^`]*)`")

# What may stand where a tagged type is told apart: msgspec names only what may not.
_TAGS = {".role": "system, developer, user, assistant", ".type": "text, image_url"}

_chat = msgspec.json.Decoder(ChatRequest)
_completion = msgspec.json.Decoder(CompletionRequest)


def parse_chat(body: bytes) -> ChatRequest:
    """Read the body of POST /v1/chat/completions.

    Raises:
        InvalidRequest: not JSON, a wrong type, a value out of range, or an unknown field.
    """
    return decode(body, _chat)


def parse_completion(body: bytes) -> CompletionRequest:
    """Read the body of POST /v1/completions.

    Raises:
        InvalidRequest: not JSON, a wrong type, a value out of range, or an unknown field.
    """
    request = decode(body, _completion)
    if isinstance(request.prompt, list):
        request.prompt = _one_prompt(request.prompt)
    return request


def _one_prompt(prompt: list[int | str]) -> str | list[int | str]:
    """Accept a list of token ids, or a list that holds one text."""
    if len(prompt) == 1 and isinstance(prompt[0], str):
        return prompt[0]
    if all(isinstance(token, int) for token in prompt):
        return prompt
    raise InvalidRequest(
        "Invalid 'prompt': one text or one list of token ids is answered per request; "
        "send a request for each prompt.",
        param="prompt",
    )


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a body, turning every refusal into an InvalidRequest that names the field."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _refusal(str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply.", code="invalid_json") from None


def _refusal(text: str) -> InvalidRequest:
    found = _PATH.search(text)
    path = found.group(1) if found else ""
    what = text[: found.start()] if found else text
    if unknown := _UNKNOWN_FIELD.search(what):
        name = _join(path, unknown.group(1))
        return UnsupportedParameter(name, "This service does not know it; leave it out.")
    if missing := _MISSING_FIELD.search(what):
        name = _join(path, missing.group(1))
        return InvalidRequest(
            f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter"
        )
    allowed = next((tags for end, tags in _TAGS.items() if path.endswith(end)), None)
    hint = f" (allowed: {allowed})" if allowed else ""
    return InvalidRequest(f"Invalid '{path or 'body'}': {what}{hint}.", param=path or None)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
