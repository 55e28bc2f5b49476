"""Log probabilities in the format of the Responses API."""

from __future__ import annotations

from typing import Any


def entries(logprobs: Any, alternatives: int) -> list[dict[str, Any]]:
    """Convert the log probabilities of an engine.

    Args:
        logprobs: OpenAI's `logprobs` object of a chat completion, from the engine.
        alternatives: number of alternative tokens per position.
    """
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    return [
        {
            **_token(entry),
            "top_logprobs": [
                _token(other) for other in entry.get("top_logprobs", [])[:alternatives]
            ],
        }
        for entry in content or ()
    ]


def short(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Omit the bytes, as the events of OpenAI's streams do."""
    return [
        {
            "token": entry["token"],
            "logprob": entry["logprob"],
            "top_logprobs": [
                {"token": other["token"], "logprob": other["logprob"]}
                for other in entry["top_logprobs"]
            ],
        }
        for entry in entries
    ]


def _token(entry: dict[str, Any]) -> dict[str, Any]:
    encoded = entry.get("bytes")
    token = entry["token"]
    return {
        "token": token,
        "logprob": entry["logprob"],
        "bytes": list(token.encode()) if encoded is None else encoded,
    }
