"""The vLLM adapter: vLLM's API server in a separate process, with an interpreter that has vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vllm_obtain.config.model_settings import ModelSettings
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines import hf_config, model_options
from vllm_obtain.engines.adapter import Adapter, LaunchSpec, Sizing, explicit_sampling
from vllm_obtain.engines.detection import detect
from vllm_obtain.engines.one_shot import Tokens
from vllm_obtain.engines.step_counter import StepReading, from_prometheus
from vllm_obtain.engines.vllm import server
from vllm_obtain.engines.vllm.sizing import AS_IT_IS, parallel, size
from vllm_obtain.engines.vllm.startup_stages import stage
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.hardware.machine import Machine
from vllm_obtain.models import Model
from vllm_obtain.protocol.engine_request import MARK, EngineRequest
from vllm_obtain.protocol.sampling_params import SamplingParams

# vLLM's completions have no "up to the context length": null means 16. Our server process reduces
# this value to the context length.
_NO_LIMIT = 2**31 - 1
# AS_IT_IS with images. vLLM passes content parts unchanged to a template that iterates over them;
# into the text of any other template it would insert placeholders of its own.
IN_PARTS = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
# vLLM rejects 0, which elsewhere means greedy decoding.
_LEAST_TOP_P = 1e-9
# vLLM's value for "no limit"; 0 means the same, but not in every version.
_EVERY_TOKEN = -1
# Stands for a space in the token names of a SentencePiece tokenizer.
_WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"


class Vllm(Adapter):
    """Hugging Face folders on NVIDIA GPUs, or on a CPU."""

    name = "vllm"
    conversion = "hf"
    supports_images = True
    # torch, an API server process and an engine core process.
    overhead_bytes = 3 * 2**30
    parameters = frozenset(
        "max_tokens max_completion_tokens min_tokens ignore_eos temperature top_p top_k min_p "
        "repetition_penalty presence_penalty frequency_penalty n stop seed logit_bias logprobs "
        "top_logprobs".split()
    )

    def why_unavailable(self) -> str | None:
        """Return why vLLM cannot be used by its interpreter, or None."""
        return detect.facts(Vllm.name, self.settings).missing

    def read_steps(self, response: bytes) -> StepReading | None:
        """Count the steps of vLLM's scheduler."""
        work = ("vllm:num_requests_running", "vllm:num_requests_waiting")
        return from_prometheus(response, "vllm:iteration_tokens_total_count", work)

    def why_not_loadable(self, model: Model) -> str | None:
        """Accept Hugging Face folders, except those that only MLX can load."""
        if model.format != "safetensors":
            return "vLLM loads Hugging Face folders only; this GGUF file must be converted to one."
        if hf_config.read(model).mlx_quantised:
            return "its weights are quantized in MLX's format, which vLLM does not support."
        return None

    def why_option_unsupported(self, key: str, owner: ModelSettings, model: Model) -> str | None:
        """Accept what vLLM's command line supports, without LoRA adapters."""
        match key:
            case "draft_model" | "ngram" if owner.sampling.min_p:
                return (
                    "vLLM does not support it together with min_p, which the model's sampling sets."
                )
            case "context" | "ngram":
                return None
            case "gpu":
                spread = parallel(self.settings)
                if len(owner.gpus) < spread:
                    return f"vLLM needs {spread} GPUs for a model (VLLM_TENSOR_PARALLEL_SIZE)."
                return model_options.why_no_gpu(self.name, owner, self.settings)
            case "kv_cache_type" if owner.kv_cache_type == "f16":
                return None
            case "kv_cache_type" if owner.kv_cache_type == "fp8":
                return None if self._on_gpu else "vLLM supports fp8 on GPUs only."
            case "kv_cache_type":
                return "vLLM supports f16 and fp8."
            case "draft_model" if owner.draft_model and not owner.draft_model.is_dir():
                return "vLLM requires a Hugging Face folder here."
            case "draft_model":
                # On a CPU, vLLM 0.32 crashes on the first request that is not greedy.
                return None if self._on_gpu else "vLLM supports it on GPUs only."
        return super().why_option_unsupported(key, owner, model)

    @property
    def _on_gpu(self) -> bool:
        return detect.facts(self.name, self.settings).device == "cuda"

    def plan(self, model: Model, settings: Settings, machine: Machine) -> Sizing:
        return size(model, settings, machine)

    def launch(self, model: Model, sizing: Sizing, socket: Path) -> LaunchSpec:
        """Start `server` with the planned arguments."""
        arguments = ["serve", str(model.path), "--uds", str(socket), *sizing.arguments]
        command = [
            detect.interpreter(Vllm.name, self.settings),
            "-u",
            server.__file__,
            json.dumps(arguments),
        ]
        folder = socket.parent.parent / "vllm" / f"{socket.parent.name}-{socket.stem}"
        env = {
            # Same as -P, which older interpreters lack: our module names must not shadow vLLM's.
            "PYTHONSAFEPATH": "1",
            # vLLM's internal sockets.
            "VLLM_RPC_BASE_PATH": str(folder),
            **sizing.env,
        }
        return LaunchSpec(command, env, folder)

    def stage(self, line: str) -> str | None:
        """Detect a startup stage in a line of vLLM's output."""
        return stage(line)

    def path(self, engine_request: EngineRequest) -> str:
        """Return the chat route for images, and for log probabilities of chats.

        Only the chat route returns a token's bytes beside its text.
        """
        return "/v1/chat/completions" if _as_chat(engine_request) else "/v1/completions"

    def check(self, engine_request: EngineRequest) -> None:
        """Reject also images whose position in the prompt would be ambiguous.

        Raises:
            InvalidRequest: the template has no image placeholder, or a text contains it.
        """
        super().check(engine_request)
        if not engine_request.images:
            return
        if not engine_request.placeholder:
            raise InvalidRequest(
                "This model's chat template has no placeholder for images, which vLLM "
                "requires. Ask the operator to set another 'chat_template' for the model.",
                param=engine_request.images[0].where,
                code="unsupported_content",
            )
        if engine_request.placeholder in str(engine_request.prompt):
            raise InvalidRequest(
                f"A message contains '{engine_request.placeholder}', this model's image "
                "placeholder. Remove it from the text.",
                param="messages",
            )

    def body(self, engine_request: EngineRequest, max_tokens: int | None) -> dict[str, Any]:
        """Translate a request for vLLM's API."""
        body = _sampling(engine_request.params, max_tokens)
        alternatives = engine_request.params.logprobs
        if _as_chat(engine_request):
            body |= _single_message(engine_request)
            if alternatives is not None:
                body |= {"logprobs": True, "top_logprobs": alternatives}
        else:
            body["prompt"] = engine_request.prompt
            body["add_special_tokens"] = not engine_request.is_chat
            body.setdefault("max_tokens", _NO_LIMIT)
            if alternatives is not None:
                body["logprobs"] = alternatives
        if engine_request.grammar is not None:
            body["structured_outputs"] = {"grammar": engine_request.grammar}
        return body

    def read_tokens(self, response: bytes) -> Tokens:
        """Parse tokens and convert their names to text."""
        tokens = super().read_tokens(response)
        if tokens.texts is None:
            return tokens
        return Tokens(tokens.ids, [_token_text(name) for name in tokens.texts])


def _as_chat(engine_request: EngineRequest) -> bool:
    return bool(engine_request.images) or (
        engine_request.is_chat and engine_request.params.logprobs is not None
    )


def _single_message(engine_request: EngineRequest) -> dict[str, Any]:
    """Wrap a rendered prompt as a chat with one message."""
    if not engine_request.images:
        content: object = engine_request.prompt
    else:
        text = str(engine_request.prompt).replace(MARK, engine_request.placeholder or "")
        urls = [f"data:{image.kind};base64,{image.base64}" for image in engine_request.images]
        parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content = [{"type": "text", "text": text}, *parts]
    template = IN_PARTS if engine_request.images else AS_IT_IS
    return {"messages": [{"role": "user", "content": content}], "chat_template": template}


def _sampling(params: SamplingParams, max_tokens: int | None) -> dict[str, Any]:
    body = explicit_sampling(params) | {
        # Usage in each chunk: the first has the exact prompt length, which corrects the reserved
        # tokens, and every further one shows generated tokens even without text.
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "top_p": max(params.top_p, _LEAST_TOP_P),
        "top_k": params.top_k or _EVERY_TOKEN,
        "repetition_penalty": params.repetition_penalty,
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if params.n > 1:
        body["n"] = params.n
    if params.min_tokens:
        body["min_tokens"] = params.min_tokens
    if params.ignore_eos:
        body["ignore_eos"] = True
    if params.seed is not None:
        body["seed"] = params.seed
    if params.stop:
        body["stop"] = params.stop
    if params.logit_bias:
        body["logit_bias"] = params.logit_bias
    return body


def _token_text(name: str) -> str:
    if _WORD_START in name:
        return name.replace(_WORD_START, " ")
    # Byte-level tokenizers write each byte as a letter. Other names are literal.
    if name.isascii() or any(letter not in _BYTES for letter in name):
        return name
    return bytes(_BYTES[letter] for letter in name).decode(errors="replace")


def _byte_letters() -> dict[str, int]:
    """Return GPT-2's byte-level alphabet: printable bytes map to themselves."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {
        chr(256 + number): byte for number, byte in enumerate(others)
    }


_BYTES = _byte_letters()
