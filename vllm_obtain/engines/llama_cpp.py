"""llama.cpp: its own C++ server, in a process of ours (`llama_cpp_server`), by way of xllamacpp."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vllm_obtain.catalogue import Model
from vllm_obtain.catalogue.convert import Target
from vllm_obtain.engines import detect, honour, llama_cpp_server
from vllm_obtain.engines.base import Adapter, Launch, spelled_out
from vllm_obtain.engines.llama_cpp_plain import LlamaCppPlain
from vllm_obtain.engines.llama_cpp_sizing import CACHE_TYPES, size
from vllm_obtain.engines.vitals import Vitals, from_prometheus
from vllm_obtain.hardware import Machine
from vllm_obtain.model_settings import ModelSettings
from vllm_obtain.protocol.apart import Apart
from vllm_obtain.protocol.requests import InferenceFields
from vllm_obtain.protocol.task import MARK, Image, Task
from vllm_obtain.settings import Settings

# The engine draws a seed of its own when it reads this one. The choices of a request get its seed
# and those that follow it, up to 128 of them: no request's seed may come that near.
_RANDOM_SEED = 0xFFFFFFFF
_MOST_CHOICES = 128

# How many tokens penalties look back at, a buffer of that size per slot: its default is 64, other
# engines look at all there are.
_PENALISED = 65_536

# Its threads meet at barriers several hundred times a token. Spinning there for long, the default,
# takes the cores that the gateway and other engines need; not spinning at all costs a fifth.
_THREADS = {"GOMP_SPINCOUNT": "1000"}
# A debugger, if there is one, would print the arguments of what crashed: texts of requests.
_QUIET = {"GGML_NO_BACKTRACE": "1"}


class LlamaCpp(LlamaCppPlain, Adapter):
    """GGUF models on CPU, Metal, or whatever the installed xllamacpp was built for."""

    name = "llama_cpp"
    keeps_stops = False
    sees = True
    pins_slots = True
    overhead_bytes = 2**29
    parameters = frozenset(
        "max_tokens max_completion_tokens temperature top_p top_k min_p repetition_penalty "
        "presence_penalty frequency_penalty n stop seed logit_bias logprobs top_logprobs "
        "ignore_eos".split()
    )

    def missing(self) -> str | None:
        """Ask what is known of xllamacpp here."""
        return detect.facts(LlamaCpp.name, self.settings).missing

    def refuses(self, model: Model) -> str | None:
        """Accept GGUF files."""
        if model.format != "gguf":
            return f"llama.cpp loads GGUF files, and this is a {model.format} folder."
        return None

    def vitals(self, answer: bytes) -> Vitals | None:
        """Count its calls of `llama_decode`: one for each batch, of a prompt too."""
        work = ("llamacpp:requests_processing", "llamacpp:requests_deferred")
        return from_prometheus(answer, "llamacpp:n_decode_total", work)

    def conversion_of(self, model: Model) -> Target | None:
        """Make a GGUF file of a folder that holds an encoder."""
        is_encoder = model.format == "safetensors" and model.kind == "embedding"
        return "gguf" if is_encoder else super().conversion_of(model)

    def cannot(self, key: str, owner: ModelSettings, model: Model) -> str | None:
        """Everything but floats of 8 bits in the cache."""
        if key == "kv_cache_type" and owner.kv_cache_type not in CACHE_TYPES:
            return f"llama.cpp has {', '.join(CACHE_TYPES)}."
        if key == "gpu":
            return honour.no_such_gpu(self.name, owner, self.settings)
        for name, path in (("draft_model", owner.draft_model), ("lora", owner.lora)):
            if key == name and path is not None and path.suffix.lower() != ".gguf":
                return "llama.cpp takes a GGUF file here."
        return None if key in honour.KEYS else super().cannot(key, owner, model)

    def launch(self, model: Model, settings: Settings, machine: Machine, socket: Path) -> Launch:
        """Start `llama_cpp_server` with what `llama_cpp_sizing` works out."""
        plan = size(model, settings, machine)
        config = {"model": str(model.path), "socket": str(socket), **plan.parameters}
        command = [sys.executable, "-u", "-P", llama_cpp_server.__file__, json.dumps(config)]
        # Its own mark for images is another one in each process, and the gateway writes the prompt.
        return Launch(command, plan.limits, {**_THREADS, **_QUIET, "LLAMA_MEDIA_MARKER": MARK})

    def path(self, task: Task) -> str:
        """Images go where a prompt may have some: its route in OpenAI's shape takes texts only."""
        return "/completion" if _own_shape(task) else super().path(task)

    def body(self, task: Task, max_tokens: int | None) -> dict[str, Any]:
        """Translate for llama-server's /v1/completions, or /completion."""
        body = _sampling(task.request, max_tokens)
        # It puts the first token there by itself.
        prompt = task.prompt
        prompt = prompt.removeprefix(task.bos) if isinstance(prompt, str) else prompt
        body["prompt"] = _seen(prompt, task.images) if task.images else prompt
        if (alternatives := task.request.wanted_logprobs) is not None:
            # It takes 0 for "no log probabilities at all"; the one too many is left out later.
            body["n_probs" if _own_shape(task) else "logprobs"] = alternatives or 1
        if task.grammar is not None:
            body["grammar"] = task.grammar
        return body

    def keep_apart(self, body: dict[str, Any], apart: Apart) -> None:
        """Pin the slot: it knows no salts."""
        body["cache_prompt"] = apart.slot is not None and not apart.foreign
        if apart.slot is not None:
            body["id_slot"] = apart.slot


def _own_shape(task: Task) -> bool:
    """Whether the engine is asked in its own way, not in OpenAI's.

    So are texts that hold its mark for an image: OpenAI's way, it looks for an image then.
    """
    return bool(task.images) or (isinstance(task.prompt, str) and MARK in task.prompt)


def _seen(prompt: object, images: Sequence[Image]) -> dict[str, Any]:
    return {"prompt_string": prompt, "multimodal_data": [image.base64 for image in images]}


def _sampling(request: InferenceFields, max_tokens: int | None) -> dict[str, Any]:
    body = spelled_out(request) | {
        # Always streamed, with progress: only then does a closed connection free the slot, in
        # the prompt too, and a prompt that advances can be told from a hung engine.
        "return_progress": True,
        "stream_options": {"include_usage": True},
        "max_tokens": -1 if max_tokens is None else max_tokens,
        "repeat_penalty": request.repetition_penalty or 1.0,
    }
    if request.repetition_penalty or request.presence_penalty or request.frequency_penalty:
        body["repeat_last_n"] = _PENALISED
    if request.draws > 1:
        body["n"] = request.draws
    if request.ignore_eos:
        body["ignore_eos"] = True
    if request.seed is not None:
        seed = request.seed & 0xFFFFFFFF
        near = seed > _RANDOM_SEED - _MOST_CHOICES
        body["seed"] = seed - _MOST_CHOICES if near else seed
    if request.logit_bias:
        body["logit_bias"] = [[int(token), bias] for token, bias in request.logit_bias.items()]
    return body
