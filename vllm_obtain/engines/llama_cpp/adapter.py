"""The llama.cpp adapter: llama.cpp's C++ server, in a separate process, through xllamacpp."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from vllm_obtain.config.model_settings import ModelSettings
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines import model_options
from vllm_obtain.engines.adapter import (
    TEXT_PATH,
    Adapter,
    LaunchSpec,
    Sizing,
    explicit_sampling,
)
from vllm_obtain.engines.detection import detect
from vllm_obtain.engines.llama_cpp import server
from vllm_obtain.engines.llama_cpp.sizing import CACHE_TYPES, size
from vllm_obtain.engines.one_shot import Tokens, read
from vllm_obtain.engines.step_counter import StepReading, from_prometheus
from vllm_obtain.hardware.machine import Machine
from vllm_obtain.models import Model
from vllm_obtain.models.convert import Target
from vllm_obtain.protocol.cache_isolation import CacheIsolation
from vllm_obtain.protocol.engine_request import MARK, EngineRequest, ImageInput
from vllm_obtain.protocol.sampling_params import SamplingParams

# llama.cpp draws a random seed for this value. The choices of a request use its seed and the
# following ones, up to 128, so a request's seed must stay below it by that much.
_RANDOM_SEED = 0xFFFFFFFF
_MOST_CHOICES = 128

# Tokens that penalties consider, a buffer of that size per slot. The default is 64; other engines
# consider all tokens.
_PENALISED = 65_536

# Its threads synchronize several hundred times per token. The default, long spinning, takes the
# cores that the gateway and other engines need. No spinning at all costs a fifth of the speed.
_THREADS = {"GOMP_SPINCOUNT": "1000"}
# On a crash, an installed debugger would print function arguments, which contain prompts.
_QUIET = {"GGML_NO_BACKTRACE": "1"}


class _Piece(Struct):
    id: int
    piece: str | list[int]

    @property
    def text(self) -> str:
        """The text of the token; a list holds bytes that are not a complete character."""
        if isinstance(self.piece, str):
            return self.piece
        return bytes(self.piece).decode(errors="replace")


class _Tokens(Struct):
    tokens: list[int | _Piece]


class _Text(Struct):
    content: str


class LlamaCpp(Adapter):
    """GGUF models on CPU, Metal, or any other device that the installed xllamacpp supports."""

    name = "llama_cpp"
    exact_stop_sequences = False
    supports_images = True
    isolates_by_slot = True
    overhead_bytes = 2**29
    parameters = frozenset(
        "max_tokens max_completion_tokens temperature top_p top_k min_p repetition_penalty "
        "presence_penalty frequency_penalty n stop seed logit_bias logprobs top_logprobs "
        "ignore_eos".split()
    )

    def why_unavailable(self) -> str | None:
        """Return why xllamacpp cannot be used here, or None."""
        return detect.facts(LlamaCpp.name, self.settings).missing

    def why_not_loadable(self, model: Model) -> str | None:
        """Accept GGUF files."""
        if model.format != "gguf":
            return f"llama.cpp loads GGUF files only; this is a {model.format} folder."
        return None

    def read_steps(self, response: bytes) -> StepReading | None:
        """Count calls of `llama_decode`: one per batch, in prefill too."""
        work = ("llamacpp:requests_processing", "llamacpp:requests_deferred")
        return from_prometheus(response, "llamacpp:n_decode_total", work)

    def conversion_of(self, model: Model) -> Target | None:
        """Convert folders with an encoder to GGUF."""
        is_encoder = model.format == "safetensors" and model.kind == "embedding"
        return "gguf" if is_encoder else super().conversion_of(model)

    def why_option_unsupported(self, key: str, owner: ModelSettings, model: Model) -> str | None:
        """Accept everything but an 8-bit float KV cache."""
        if key == "kv_cache_type" and owner.kv_cache_type not in CACHE_TYPES:
            return f"llama.cpp supports {', '.join(CACHE_TYPES)}."
        if key == "gpu":
            return model_options.why_no_gpu(self.name, owner, self.settings)
        for name, path in (("draft_model", owner.draft_model), ("lora", owner.lora)):
            if key == name and path is not None and path.suffix.lower() != ".gguf":
                return "llama.cpp requires a GGUF file here."
        if key in model_options.KEYS:
            return None
        return super().why_option_unsupported(key, owner, model)

    def plan(self, model: Model, settings: Settings, machine: Machine) -> Sizing:
        return size(model, settings, machine)

    def launch(self, model: Model, sizing: Sizing, socket: Path) -> LaunchSpec:
        """Start `server` with the planned parameters."""
        config = {"model": str(model.path), "socket": str(socket), **sizing.parameters}
        command = [sys.executable, "-u", "-P", server.__file__, json.dumps(config)]
        # The gateway writes the prompt, so the image marker must not be random per process.
        env = {**_THREADS, **_QUIET, "LLAMA_MEDIA_MARKER": MARK}
        return LaunchSpec(command, env)

    def path(self, engine_request: EngineRequest) -> str:
        """Return the native route for prompts with images: the OpenAI route accepts text only."""
        return "/completion" if _is_native(engine_request) else TEXT_PATH

    def body(self, engine_request: EngineRequest, max_tokens: int | None) -> dict[str, Any]:
        """Translate for llama-server's /v1/completions, or /completion."""
        body = _sampling(engine_request.params, max_tokens)
        # llama.cpp adds the BOS token itself.
        prompt = engine_request.prompt
        prompt = prompt.removeprefix(engine_request.bos) if isinstance(prompt, str) else prompt
        images = engine_request.images
        body["prompt"] = _multimodal(prompt, images) if images else prompt
        if (alternatives := engine_request.params.logprobs) is not None:
            # 0 means "no log probabilities" to llama.cpp; the extra one is dropped later.
            body["n_probs" if _is_native(engine_request) else "logprobs"] = alternatives or 1
        if engine_request.grammar is not None:
            body["grammar"] = engine_request.grammar
        return body

    def apply_cache_isolation(self, body: dict[str, Any], isolation: CacheIsolation) -> None:
        """Pin the slot, because llama.cpp has no salts."""
        body["cache_prompt"] = isolation.slot is not None and not isolation.foreign
        if isolation.slot is not None:
            body["id_slot"] = isolation.slot

    def tokenize_body(self, text: str, special: bool, texts: bool) -> dict[str, Any]:
        return {
            "content": text,
            "add_special": special,
            "parse_special": True,
            "with_pieces": texts,
        }

    def read_tokens(self, response: bytes) -> Tokens:
        """Parse the response, with the tokens' texts if it has any."""
        tokens = read(response, _Tokens).tokens
        pieces = [token for token in tokens if isinstance(token, _Piece)]
        if pieces:
            return Tokens([piece.id for piece in pieces], [piece.text for piece in pieces])
        return Tokens([token for token in tokens if isinstance(token, int)])

    def read_text(self, response: bytes) -> str:
        return read(response, _Text).content


def _is_native(engine_request: EngineRequest) -> bool:
    """Whether a request uses llama.cpp's native route instead of OpenAI's.

    Texts that contain the image marker do too: the OpenAI route would look for an image.
    """
    return bool(engine_request.images) or (
        isinstance(engine_request.prompt, str) and MARK in engine_request.prompt
    )


def _multimodal(prompt: object, images: Sequence[ImageInput]) -> dict[str, Any]:
    return {"prompt_string": prompt, "multimodal_data": [image.base64 for image in images]}


def _sampling(params: SamplingParams, max_tokens: int | None) -> dict[str, Any]:
    body = explicit_sampling(params) | {
        # Always streamed, with progress: only then does a closed connection free the slot during
        # prefill, and only then can a long prefill be told from a stall.
        "return_progress": True,
        "stream_options": {"include_usage": True},
        "max_tokens": -1 if max_tokens is None else max_tokens,
        "repeat_penalty": params.repetition_penalty,
    }
    if params.repetition_penalty != 1 or params.presence_penalty or params.frequency_penalty:
        body["repeat_last_n"] = _PENALISED
    if params.n > 1:
        body["n"] = params.n
    if params.ignore_eos:
        body["ignore_eos"] = True
    if params.seed is not None:
        seed = params.seed & 0xFFFFFFFF
        near = seed > _RANDOM_SEED - _MOST_CHOICES
        body["seed"] = seed - _MOST_CHOICES if near else seed
    if params.logit_bias:
        body["logit_bias"] = [[int(token), bias] for token, bias in params.logit_bias.items()]
    return body
