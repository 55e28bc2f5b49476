"""vLLM: its own API server, in a process of ours (`vllm_server`), by an interpreter that has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vllm_obtain.catalogue import Model
from vllm_obtain.engines import detect, hf_config, honour, vllm_server
from vllm_obtain.engines.base import Adapter, Launch, spelled_out
from vllm_obtain.engines.vitals import Vitals, from_prometheus
from vllm_obtain.engines.vllm_plain import VllmPlain
from vllm_obtain.engines.vllm_sizing import parallel, size
from vllm_obtain.engines.vllm_stages import stage
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.hardware import Machine
from vllm_obtain.model_settings import ModelSettings
from vllm_obtain.protocol.requests import InferenceFields
from vllm_obtain.protocol.task import MARK, Task
from vllm_obtain.settings import Settings

# Text completions take no "as many as there is room for": 16 is what they make of null. Our
# server process cuts this to the context.
_NO_LIMIT = 2**31 - 1
# A template for a conversation that is written already.
AS_IT_IS = "{{ messages[0]['content'] }}"
# The same with images beside it. A template that is seen to go through messages and their parts is
# handed the parts as they are; into any other one's text vLLM would put places of its own.
IN_PARTS = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
# It takes no 0, where we and others mean "the likeliest token only".
_LEAST_TOP_P = 1e-9
# Its word for "no limit"; 0 means the same, but not in every version.
_EVERY_TOKEN = -1


class Vllm(VllmPlain, Adapter):
    """Hugging Face folders on NVIDIA GPUs, or on a CPU."""

    name = "vllm"
    conversion = "hf"
    sees = True
    # torch, and a process for the front and one for the model.
    overhead_bytes = 3 * 2**30
    parameters = frozenset(
        "max_tokens max_completion_tokens min_tokens ignore_eos temperature top_p top_k min_p "
        "repetition_penalty presence_penalty frequency_penalty n stop seed logit_bias logprobs "
        "top_logprobs".split()
    )

    def missing(self) -> str | None:
        """Ask what is known of vllm in its interpreter."""
        return detect.facts(Vllm.name, self.settings).missing

    def vitals(self, answer: bytes) -> Vitals | None:
        """Count the steps of its scheduler."""
        work = ("vllm:num_requests_running", "vllm:num_requests_waiting")
        return from_prometheus(answer, "vllm:iteration_tokens_total_count", work)

    def refuses(self, model: Model) -> str | None:
        """Accept Hugging Face folders, except those that only MLX can read."""
        if model.format != "safetensors":
            return "vLLM loads Hugging Face folders; this GGUF file needs a conversion to one."
        if hf_config.read(model).mlx_quantised:
            return "its weights are quantised in MLX's own form, which vLLM does not read."
        return None

    def cannot(self, key: str, owner: ModelSettings, model: Model) -> str | None:
        """What its command line can say; adapters would need their name in each request."""
        match key:
            case "draft_model" | "ngram" if owner.sampling.min_p:
                return "vLLM has no min_p then, and it is set for the model's sampling."
            case "context" | "ngram":
                return None
            case "gpu":
                spread = parallel(self.settings)
                if len(owner.gpus) < spread:
                    return f"vLLM spreads a model over {spread} GPUs (VLLM_TENSOR_PARALLEL_SIZE)."
                return honour.no_such_gpu(self.name, owner, self.settings)
            case "kv_cache_type" if owner.kv_cache_type == "f16":
                return None
            case "kv_cache_type" if owner.kv_cache_type == "fp8":
                return None if self._on_gpu else "vLLM has fp8 on GPUs only."
            case "kv_cache_type":
                return "vLLM has f16 and fp8."
            case "draft_model" if owner.draft_model and not owner.draft_model.is_dir():
                return "vLLM takes a Hugging Face folder here."
            case "draft_model":
                # On a CPU, 0.32 dies of the first request that is drawn and not greedy.
                return None if self._on_gpu else "vLLM takes it on GPUs only."
        return super().cannot(key, owner, model)

    @property
    def _on_gpu(self) -> bool:
        return detect.facts(self.name, self.settings).device == "cuda"

    def launch(self, model: Model, settings: Settings, machine: Machine, socket: Path) -> Launch:
        """Start `vllm_server` with what `vllm_sizing` works out."""
        plan = size(model, settings, machine)
        arguments = ["serve", str(model.path), "--uds", str(socket), *plan.arguments]
        command = [
            detect.interpreter(Vllm.name, settings),
            "-u",
            vllm_server.__file__,
            json.dumps(arguments),
        ]
        env = {
            # As -P, which older interpreters do not know: this folder's names are not for vLLM.
            "PYTHONSAFEPATH": "1",
            # Its own sockets, which it leaves behind when it is killed; the next start sweeps.
            "VLLM_RPC_BASE_PATH": str(socket.parent.parent / "vllm"),
            **plan.env,
        }
        return Launch(command, plan.limits, env)

    def stage(self, line: str) -> str | None:
        """Read from a line of vLLM's output how far its start has come."""
        return stage(line)

    def path(self, task: Task) -> str:
        """Chats with log probabilities go where a token's bytes are told, not only its text.

        And those with images where it takes some.
        """
        return "/v1/chat/completions" if _as_chat(task) else "/v1/completions"

    def check(self, task: Task) -> None:
        """Refuse images too whose place cannot be told from text.

        Raises:
            InvalidRequest: the template has no words for an image, or a text has them.
        """
        super().check(task)
        if not task.images:
            return
        if not task.placeholder:
            raise InvalidRequest(
                "This model's chat template writes nothing for an image, by which vLLM finds its "
                "place. Have the owner of the service set another 'chat_template' for it.",
                param=task.images[0].where,
                code="unsupported_content",
            )
        if task.placeholder in str(task.prompt):
            raise InvalidRequest(
                f"A text holds '{task.placeholder}', which is an image's place to this model. "
                "Write it otherwise.",
                param="messages",
            )

    def body(self, task: Task, max_tokens: int | None) -> dict[str, Any]:
        """Translate for vLLM's API."""
        request = task.request
        body = _sampling(request, max_tokens)
        alternatives = request.wanted_logprobs
        if _as_chat(task):
            body |= _written(task)
            if alternatives is not None:
                body |= {"logprobs": True, "top_logprobs": alternatives}
        else:
            body["prompt"] = task.prompt
            body["add_special_tokens"] = not task.is_chat
            body.setdefault("max_tokens", _NO_LIMIT)
            if alternatives is not None:
                body["logprobs"] = alternatives
        if task.grammar is not None:
            body["structured_outputs"] = {"grammar": task.grammar}
        return body


def _as_chat(task: Task) -> bool:
    return bool(task.images) or (task.is_chat and task.request.wanted_logprobs is not None)


def _written(task: Task) -> dict[str, Any]:
    """A conversation that is written already, as a chat of one message."""
    if not task.images:
        content: object = task.prompt
    else:
        text = str(task.prompt).replace(MARK, task.placeholder or "")
        urls = [f"data:{image.kind};base64,{image.base64}" for image in task.images]
        shown = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content = [{"type": "text", "text": text}, *shown]
    template = IN_PARTS if task.images else AS_IT_IS
    return {"messages": [{"role": "user", "content": content}], "chat_template": template}


def _sampling(request: InferenceFields, max_tokens: int | None) -> dict[str, Any]:
    sampling = request.sampling
    body = spelled_out(request) | {
        # Usage in each chunk: the first one tells the prompt's true length, which corrects what
        # the request reserved, and every one that tokens come also where no text does.
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "top_p": max(sampling.top_p, _LEAST_TOP_P),
        "top_k": sampling.top_k or _EVERY_TOKEN,
        "repetition_penalty": request.repetition_penalty or 1.0,
    }
    if max_tokens is not None:
        body["max_tokens"] = max_tokens
    if request.draws > 1:
        body["n"] = request.draws
    if request.min_tokens:
        body["min_tokens"] = request.min_tokens
    if request.ignore_eos:
        body["ignore_eos"] = True
    if request.seed is not None:
        body["seed"] = request.seed
    if request.stop is not None:
        body["stop"] = request.stop
    if request.logit_bias:
        body["logit_bias"] = request.logit_bias
    return body
