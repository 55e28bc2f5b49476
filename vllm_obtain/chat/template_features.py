"""What a chat template supports: found out once in the sandbox, and kept on disk.

One small file per template in the user's cache folder. A file that cannot be read or written, or
is malformed, counts as missing. Failures that depend on time or memory are not kept.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vllm_obtain import __version__
from vllm_obtain.chat import sandbox
from vllm_obtain.chat.chat_template import TemplateError
from vllm_obtain.chat.reasoning_tags import ReasoningTags
from vllm_obtain.chat.sandbox import LimitExceeded, Refused
from vllm_obtain.chat.tool_call_format import ToolCallFormat
from vllm_obtain.engines.detection import cache
from vllm_obtain.fs import atomic_write, read_own
from vllm_obtain.logs.setup import get_logger

log = get_logger("vllm_obtain.models")

# Characters of a template. The longest of known models have 20,000.
_LONGEST = 512 * 1024
# Templates that are remembered in this process.
_MOST_KNOWN = 1024
# Seconds until a template that exceeded a limit is tried again, doubled each time.
_RETRY_SECONDS, _LONGEST_RETRY = 30.0, 3600.0
# The modules that decide what a template supports.
_SOURCES = "chat_template jinja_env reasoning_tags template_probe tool_call_format".split()
_LIMITS = {
    "time": "takes too much CPU time",
    "memory": "takes too much memory",
    "stack": "is nested too deeply",
    "output": "writes too much text",
}


class TemplateFeatures(msgspec.Struct, frozen=True):
    """What a chat template supports.

    Args:
        in_parts: whether it supports contents as lists of parts only.
        tool_calls: its format of tool calls, None if it has none that we can parse.
        reasoning: the tags around its reasoning, None if it does not reason.
        supports_system: whether it accepts a system message.
        placeholder: what it writes for an image, None if it does not support images.
        effort_variables: the variables in it that set the reasoning effort.
        error: why it is broken; empty if it is not.
    """

    in_parts: bool = False
    tool_calls: ToolCallFormat | None = None
    reasoning: ReasoningTags | None = None
    supports_system: bool = False
    placeholder: str | None = None
    effort_variables: tuple[str, ...] = ()
    error: str = ""


@dataclass(slots=True)
class _Failure:
    """Attempts that exceeded a limit.

    Args:
        reason: the limit.
        count: the attempts.
        until: monotonic seconds until the next one.
    """

    reason: str
    count: int = 0
    until: float = 0.0


def template_features(model: str, source: str, bos: str, eos: str) -> TemplateFeatures:
    """Return what a template supports.

    Args:
        model: name of the model, for errors.
        source: Jinja source.
        bos: text of the token that begins a prompt.
        eos: text of the token that ends a completion.

    Raises:
        TemplateError: the template is broken.
        TemplateLimit: it exceeded a limit.
        ServiceError, ClientDisconnected: as in `sandbox.run`.
    """
    if len(source) > _LONGEST:
        raise TemplateError(
            f"The chat template of '{model}' has {len(source):,} characters; at most "
            f"{_LONGEST:,} are supported. Ask the operator to set another 'chat_template' for the "
            "model."
        )
    found = _known(os.getpid()).get(model, source, bos, eos)
    if found.error:
        raise TemplateError(found.error)
    return found


class TemplateLimit(TemplateError):
    """The template exceeded a limit of the sandbox, which may be due to this request.

    Args:
        model: name of the model.
        reason: the limit, as in `LimitExceeded`.
    """

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(
            f"The chat template of '{model}' {_LIMITS[reason]}. Shorten the conversation, or ask "
            "the operator to set another 'chat_template' for the model.",
            param="messages",
        )


class _Known:
    """The templates that this process has seen."""

    def __init__(self) -> None:
        self._features: dict[str, TemplateFeatures] = {}
        self._failures: dict[str, _Failure] = {}

    def get(self, model: str, source: str, bos: str, eos: str) -> TemplateFeatures:
        key = _key(source, bos, eos)
        if (found := self._features.get(key)) is not None:
            return found
        found = _load(key)
        if found is None:
            found = self._probe(model, key, source, bos, eos)
            _save(key, found)
        if len(self._features) >= _MOST_KNOWN:
            self._features.pop(next(iter(self._features)), None)
        self._features[key] = found
        return found

    def _probe(self, model: str, key: str, source: str, bos: str, eos: str) -> TemplateFeatures:
        failure = self._failures.get(key)
        if failure is not None and time.monotonic() < failure.until:
            raise TemplateLimit(model, failure.reason)
        try:
            found = msgspec.convert(sandbox.run("probe", source, bos, eos), TemplateFeatures)
        except Refused as error:
            found = TemplateFeatures(error=error.message)
        except LimitExceeded as error:
            self._note_failure(key, error.reason)
            log.warning("chat template not examined", model=model, reason=error.reason)
            raise TemplateLimit(model, error.reason) from None
        self._failures.pop(key, None)
        log.info("chat template examined", model=model, **_summary(found))
        return found

    def _note_failure(self, key: str, reason: str) -> None:
        if len(self._failures) >= _MOST_KNOWN:
            self._failures.pop(next(iter(self._failures)), None)
        failure = self._failures.setdefault(key, _Failure(reason))
        pause = min(_RETRY_SECONDS * 2**failure.count, _LONGEST_RETRY)
        failure.reason, failure.count = reason, failure.count + 1
        failure.until = time.monotonic() + pause


def _summary(features: TemplateFeatures) -> dict[str, bool]:
    return {
        "valid": not features.error,
        "tools": features.tool_calls is not None,
        "reasoning": features.reasoning is not None,
        "images": features.placeholder is not None,
    }


@functools.cache
def _known(pid: int) -> _Known:  # noqa: ARG001 - a forked process has its own
    return _Known()


def _key(source: str, bos: str, eos: str) -> str:
    content = msgspec.json.encode([_code(), source, bos, eos])
    return hashlib.blake2b(content, digest_size=16).hexdigest()


@functools.cache
def _code() -> str:
    """Return a fingerprint of the code that decides."""
    digest = hashlib.blake2b(__version__.encode(), digest_size=16)
    for name in _SOURCES:
        with contextlib.suppress(OSError):
            digest.update((Path(__file__).parent / f"{name}.py").read_bytes())
    return digest.hexdigest()


def _file(key: str) -> Path:
    return cache.folder() / "templates" / f"{key}.json"


def _load(key: str) -> TemplateFeatures | None:
    try:
        text = read_own(_file(key))
        return None if text is None else msgspec.json.decode(text, type=TemplateFeatures)
    except (OSError, ValueError, RuntimeError):
        return None


def _save(key: str, features: TemplateFeatures) -> None:
    with contextlib.suppress(OSError, RuntimeError):
        file = _file(key)
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic_write(file, msgspec.json.encode(features))
