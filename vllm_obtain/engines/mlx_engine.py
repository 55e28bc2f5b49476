"""MLX: our own server on mlx-lm's parts, in a process of ours (`mlx_server`). Never imports mlx."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vllm_obtain.catalogue import Model
from vllm_obtain.engines import detect, honour, mlx_server
from vllm_obtain.engines.base import Adapter, Launch, spelled_out
from vllm_obtain.engines.mlx_sizing import size
from vllm_obtain.engines.openblas import preload
from vllm_obtain.engines.vitals import Vitals, from_json
from vllm_obtain.hardware import Machine, device
from vllm_obtain.log import get_logger
from vllm_obtain.model_settings import ModelSettings
from vllm_obtain.protocol.requests import InferenceFields
from vllm_obtain.protocol.task import Task
from vllm_obtain.settings import Settings

log = get_logger("vllm_obtain.models")

# What `mlx/encoder.py` computes.
ENCODERS = ("BertModel", "BertForMaskedLM")

_QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


# How many of cuDNN's plans for attention are kept; mlx forgets all but 256.
_CUDA = {"MLX_CUDA_SDPA_CACHE_SIZE": "4096"}


class Mlx(Adapter):
    """Safetensors folders on Metal, on CUDA or on CPUs, by what the installed mlx was built for."""

    name = "mlx"
    conversion = "mlx"
    parameters = frozenset(
        "max_tokens max_completion_tokens temperature top_p top_k min_p repetition_penalty "
        "presence_penalty frequency_penalty n stop seed logit_bias logprobs top_logprobs "
        "ignore_eos".split()
    )

    def missing(self) -> str | None:
        """Ask what is known of mlx-lm here."""
        return detect.facts(Mlx.name, self.settings).missing

    def vitals(self, answer: bytes) -> Vitals | None:
        """Count the passes of the model."""
        return from_json(answer)

    def refuses(self, model: Model) -> str | None:
        """Accept safetensors folders."""
        if model.format != "safetensors":
            return f"MLX loads safetensors folders; this {model.format} file needs a conversion."
        if model.kind == "embedding" and model.architecture not in ENCODERS:
            return f"of embedding models our MLX server has {ENCODERS[0]} only."
        return None

    def cannot(self, key: str, owner: ModelSettings, model: Model) -> str | None:
        """Only what needs nothing from mlx-lm that its batches lack."""
        match key:
            case "context":
                return None
            case "gpu" if len(owner.gpus) > 1:
                return "MLX computes on one GPU."
            case "gpu":
                return honour.no_such_gpu(self.name, owner, self.settings)
            case "kv_cache_type":
                return "MLX keeps the caches of its batches in the model's own floats."
            case "draft_model" | "ngram":
                return "MLX answers many requests in one batch, and guesses ahead for none."
        return super().cannot(key, owner, model)

    def launch(self, model: Model, settings: Settings, machine: Machine, socket: Path) -> Launch:
        """Start `mlx_server` with what `mlx_sizing` works out."""
        plan = size(model, settings, machine)
        if plan.parameters["widen"]:
            log.info("MLX computes with floats of 32 bits on this processor", model=model.name)
        config = {"model": str(model.path), "socket": str(socket), **plan.parameters}
        env = dict(_QUIET)
        if sys.platform == "linux":
            env |= _fast_blas(machine) if device(settings.device_type) == "cpu" else _CUDA
        command = [sys.executable, "-u", "-P", mlx_server.__file__, json.dumps(config)]
        return Launch(command, plan.limits, env, plan.weights)

    def body(self, task: Task, max_tokens: int | None) -> dict[str, Any]:
        """Translate for our server's /v1/completions."""
        body = _sampling(task.request, max_tokens)
        body["prompt"] = task.prompt
        body["add_special_tokens"] = not task.is_chat
        if (alternatives := task.request.wanted_logprobs) is not None:
            body["logprobs"] = alternatives
        if task.request.ignore_eos:
            body["ignore_eos"] = True
        if task.grammar is not None:
            body["grammar"] = task.grammar
        return body


def _fast_blas(machine: Machine) -> dict[str, str]:
    """Have a fast BLAS stand in for the slow one that mlx's wheel for CPUs links."""
    env = preload(machine.performance_cores)
    if env:
        log.info("preloading OpenBLAS for MLX", library=env["LD_PRELOAD"])
    else:
        log.warning(
            "no OpenBLAS found: MLX is many times slower without it",
            install="apt-get install libopenblas0-pthread",
        )
    return env


def _sampling(request: InferenceFields, max_tokens: int | None) -> dict[str, Any]:
    body = spelled_out(request) | {
        "return_progress": True,
        "max_tokens": -1 if max_tokens is None else max_tokens,
        "repetition_penalty": request.repetition_penalty or 1.0,
        "n": request.draws,
    }
    optional = {"seed": request.seed, "stop": request.stop, "logit_bias": request.logit_bias}
    return body | {name: value for name, value in optional.items() if value is not None}
