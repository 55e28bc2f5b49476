"""The MLX adapter: our server on mlx-lm, in a separate process. Never imports mlx."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vllm_obtain.config.model_settings import ModelSettings
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines import model_options
from vllm_obtain.engines.adapter import Adapter, LaunchSpec, Sizing, explicit_sampling
from vllm_obtain.engines.detection import detect
from vllm_obtain.engines.mlx import server_main
from vllm_obtain.engines.mlx.openblas import preload
from vllm_obtain.engines.mlx.sizing import size
from vllm_obtain.engines.step_counter import StepReading, from_json
from vllm_obtain.hardware.machine import Machine, describe
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.models import Model
from vllm_obtain.protocol.engine_request import EngineRequest
from vllm_obtain.protocol.sampling_params import SamplingParams

log = get_logger("vllm_obtain.models")

# The architectures that `mlx/server/bert.py` implements.
ENCODERS = ("BertModel", "BertForMaskedLM")

_QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


# The number of cuDNN attention plans to cache; mlx's default is 256.
_CUDA = {"MLX_CUDA_SDPA_CACHE_SIZE": "4096"}


class Mlx(Adapter):
    """Safetensors folders on Metal, CUDA or CPU, whatever the installed mlx was built for."""

    name = "mlx"
    conversion = "mlx"
    parameters = frozenset(
        "max_tokens max_completion_tokens temperature top_p top_k min_p repetition_penalty "
        "presence_penalty frequency_penalty n stop seed logit_bias logprobs top_logprobs "
        "ignore_eos".split()
    )

    def why_unavailable(self) -> str | None:
        """Return why mlx-lm cannot be used here, or None."""
        return detect.facts(Mlx.name, self.settings).missing

    def read_steps(self, response: bytes) -> StepReading | None:
        """Count forward passes of the model."""
        return from_json(response)

    def why_not_loadable(self, model: Model) -> str | None:
        """Accept safetensors folders."""
        if model.format != "safetensors":
            return (
                f"MLX loads safetensors folders only; this {model.format} file must be converted."
            )
        if model.kind == "embedding" and model.architecture not in ENCODERS:
            return f"our MLX server supports embedding models of type {ENCODERS[0]} only."
        return None

    def why_option_unsupported(self, key: str, owner: ModelSettings, model: Model) -> str | None:
        """Accept what mlx-lm's batched caches support."""
        match key:
            case "context":
                return None
            case "gpu" if len(owner.gpus) > 1:
                return "MLX runs on one GPU."
            case "gpu":
                return model_options.why_no_gpu(self.name, owner, self.settings)
            case "kv_cache_type":
                return "the KV cache of our MLX server has the model's float type."
            case "draft_model" | "ngram":
                return "our MLX server batches requests and has no speculative decoding."
        return super().why_option_unsupported(key, owner, model)

    def plan(self, model: Model, settings: Settings, machine: Machine) -> Sizing:
        return size(model, settings, machine)

    def launch(self, model: Model, sizing: Sizing, socket: Path) -> LaunchSpec:
        """Start `server_main` with the planned parameters."""
        if sizing.parameters["widen"]:
            log.info("MLX weights widened to float32 for this CPU", model=model.name)
        config = {"model": str(model.path), "socket": str(socket), **sizing.parameters}
        env = dict(_QUIET)
        if sys.platform == "linux":
            env |= _fast_blas() if sizing.parameters["device"] == "cpu" else _CUDA
        command = [sys.executable, "-u", "-P", server_main.__file__, json.dumps(config)]
        return LaunchSpec(command, env)

    def body(self, engine_request: EngineRequest, max_tokens: int | None) -> dict[str, Any]:
        """Translate a request for our server's /v1/completions."""
        params = engine_request.params
        body = _sampling(params, max_tokens)
        body["prompt"] = engine_request.prompt
        body["add_special_tokens"] = not engine_request.is_chat
        if params.logprobs is not None:
            body["logprobs"] = params.logprobs
        if params.ignore_eos:
            body["ignore_eos"] = True
        if engine_request.grammar is not None:
            body["grammar"] = engine_request.grammar
        return body


def _fast_blas() -> dict[str, str]:
    """Preload a fast BLAS in place of the slow one that mlx's CPU package links."""
    env = preload(describe().performance_cores)
    if env:
        log.info("OpenBLAS preloaded for MLX", library=env["LD_PRELOAD"])
    else:
        log.warning(
            "OpenBLAS not found: MLX is many times slower without it",
            install="apt-get install libopenblas0-pthread",
        )
    return env


def _sampling(params: SamplingParams, max_tokens: int | None) -> dict[str, Any]:
    body = explicit_sampling(params) | {
        "return_progress": True,
        "max_tokens": -1 if max_tokens is None else max_tokens,
        "repetition_penalty": params.repetition_penalty,
        "n": params.n,
    }
    if params.seed is not None:
        body["seed"] = params.seed
    if params.stop:
        body["stop"] = params.stop
    if params.logit_bias:
        body["logit_bias"] = params.logit_bias
    return body
