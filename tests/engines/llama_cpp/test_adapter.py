from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.engine_requests import engine_request
from tests.models.gguf_files import write_gguf
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.llama_cpp.adapter import LlamaCpp
from vllm_obtain.engines.llama_cpp.sizing import MAX_SLOTS, size
from vllm_obtain.hardware.machine import Machine
from vllm_obtain.models import Model, ModelCatalog
from vllm_obtain.protocol.engine_request import MARK, ImageInput
from vllm_obtain.protocol.parsing import parse_chat, parse_completion

GIB = 2**30


def machine(memory: int = 16 * GIB, cores: int = 8) -> Machine:
    return Machine("Linux", "x86_64", "CPU", cores, 2 * cores, cores, memory)


def settings(**env: str) -> Settings:
    return Settings.load({"DEVICE_TYPE": "cpu"} | {k.upper(): v for k, v in env.items()})


def model(folder: Path, **metadata: Any) -> Model:
    write_gguf(folder / "a.gguf", {name.replace("__", "."): v for name, v in metadata.items()})
    return ModelCatalog(folder).find("a")


def chat(**fields: Any) -> dict[str, Any]:
    """The body that llama.cpp gets for a chat request."""
    body = {"messages": [{"role": "user", "content": "x"}], **fields}
    request = parse_chat(json.dumps(body).encode())
    task = engine_request(request, "<s>x", bos="<s>")
    return LlamaCpp().body(task, task.params.max_tokens)


def test_a_chat_body_spells_everything_out() -> None:
    assert chat() == {
        "prompt": "x",
        "stream": True,
        "return_progress": True,
        "stream_options": {"include_usage": True},
        "max_tokens": -1,
        "temperature": 0.8,
        "top_p": 0.95,
        "top_k": 40,
        "min_p": 0.05,
        "repeat_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"temperature": 0}, {"temperature": 0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}),
        ({"top_p": 0.5}, {"temperature": 1.0, "top_p": 0.5, "top_k": 0, "min_p": 0.0}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_tokens": 7, "max_completion_tokens": 9}, {"max_tokens": 9}),
        ({"seed": 5}, {"seed": 5}),
        ({"seed": 0}, {"seed": 0}),
        ({"seed": -1}, {"seed": 0xFFFFFF7F}),  # its own -1 would draw a seed
        ({"seed": 0xFFFFFF7F}, {"seed": 0xFFFFFF7F}),
        ({"seed": 2**32 + 3}, {"seed": 3}),
        ({"n": 3}, {"n": 3}),
        ({"logit_bias": {"5": -100}}, {"logit_bias": [[5, -100]]}),
        ({"repetition_penalty": 1.1}, {"repeat_penalty": 1.1, "repeat_last_n": 65_536}),
        ({"presence_penalty": -1}, {"presence_penalty": -1, "repeat_last_n": 65_536}),
        ({"logprobs": True}, {"logprobs": 1}),
        ({"logprobs": True, "top_logprobs": 3}, {"logprobs": 3}),
        ({"ignore_eos": True}, {"ignore_eos": True}),
    ],
)
def test_values(given: dict[str, Any], sent: dict[str, Any]) -> None:
    body = chat(**given)
    assert {name: body[name] for name in sent} == sent


def test_stop_texts_are_the_gateways() -> None:
    assert "stop" not in chat(stop=["x"])


@pytest.mark.parametrize("given", [{"n": 1}, {"n": 3, "temperature": 0}])
def test_one_answer_is_asked_for_where_all_would_be_the_same(given: dict[str, Any]) -> None:
    assert "n" not in chat(**given)


@pytest.mark.parametrize(("logprobs", "sent"), [(0, 1), (1, 1), (5, 5)])
def test_log_probabilities_of_a_completion(logprobs: int, sent: int) -> None:
    request = parse_completion(json.dumps({"prompt": "x", "logprobs": logprobs}).encode())
    assert LlamaCpp().body(engine_request(request, "x"), 5)["logprobs"] == sent


@pytest.mark.parametrize("prompt", ["text", [1, 2, 3]])
def test_a_completion_body(prompt: Any) -> None:
    request = parse_completion(json.dumps({"prompt": prompt}).encode())
    body = LlamaCpp().body(engine_request(request, prompt, grammar="%llguidance {}"), 5)
    assert (body["prompt"], body["max_tokens"]) == (prompt, 5)
    assert body["grammar"] == "%llguidance {}"


def test_the_command_imports_nothing_from_the_working_directory(tmp_path: Path) -> None:
    one = model(tmp_path)
    sizing = LlamaCpp().plan(one, settings(), machine())
    launch = LlamaCpp().launch(one, sizing, Path("/run/x.sock"))
    program, *options, script, config = launch.command
    assert program == sys.executable
    assert "-P" in options
    assert script.endswith("llama_cpp/server.py")
    assert json.loads(config)["socket"] == "/run/x.sock"
    assert json.loads(config)["n_parallel"] == sizing.limits.slots


def test_a_small_model_gets_the_room_it_can_use(tmp_path: Path) -> None:
    plan = size(model(tmp_path), settings(max_concurrent_requests="8"), machine())
    assert plan.limits.slots == plan.parameters["n_parallel"] == 8
    assert plan.limits.context == 512, "what it was trained for"
    assert plan.limits.pool_tokens == 8 * 1024
    assert plan.parameters["n_ctx"] > plan.limits.pool_tokens, "a batch fits beside it"


def test_slots_are_bounded(tmp_path: Path) -> None:
    plan = size(model(tmp_path), settings(max_concurrent_requests="5000"), machine())
    assert plan.limits.slots == MAX_SLOTS


def test_little_memory_makes_the_pool_and_the_context_smaller(tmp_path: Path) -> None:
    long = model(tmp_path, llama__context_length=100_000)
    assert long.header is not None
    per_token = long.header.kv_bytes_per_token()
    assert per_token is not None
    plan = size(long, settings(), machine(memory=per_token * 20_000 * 5))
    assert plan.limits.pool_tokens == 20_000
    assert plan.limits.context == 20_000


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_threads_leave_the_gateway_a_core(tmp_path: Path, cores: int) -> None:
    plan = size(model(tmp_path), settings(), machine(cores=cores))
    assert plan.parameters["threads"] == max(1, cores - 1)
    assert plan.parameters["threads_batch"] == cores
    assert plan.parameters["n_gpu_layers"] == 0


IMAGE = ImageInput(b"png", "image/png", 1, 1, "messages[0].content[0].image_url")


def test_images_go_as_llama_cpp_takes_them() -> None:
    request = parse_chat(b'{"messages": [{"role": "user", "content": "x"}], "logprobs": true}')
    task = engine_request(request, f"<s>a{MARK}b", bos="<s>", images=(IMAGE,))
    body = LlamaCpp().body(task, 5)
    assert LlamaCpp().path(task) == "/completion"
    assert body["prompt"] == {"prompt_string": f"a{MARK}b", "multimodal_data": ["cG5n"]}
    assert body["n_probs"] == 1 and "logprobs" not in body
    # A text with the mark in it is no image's place; OpenAI's way it would be.
    text = engine_request(request, f"a{MARK}b")
    assert LlamaCpp().path(text) == "/completion"
    assert LlamaCpp().body(text, 5)["prompt"] == f"a{MARK}b"
    assert LlamaCpp().path(engine_request(request, "x")) == "/v1/completions"


def test_a_projector_is_loaded_with_its_model(tmp_path: Path) -> None:
    plain = size(model(tmp_path), settings(), machine(cores=2))
    assert plain.parameters["projector"] is None
    for kind, batch in (("mlp", 128), ("gemma3", 512)):
        clip = {"general.architecture": "clip", "clip.projector_type": kind}
        write_gguf(tmp_path / "mmproj-a.gguf", clip)
        seeing = size(ModelCatalog(tmp_path).find("a"), settings(), machine(cores=2))
        assert seeing.parameters["projector"] == str(tmp_path / "mmproj-a.gguf")
        # Those of that family read an image in one step.
        assert seeing.parameters["n_batch"] == seeing.parameters["n_ubatch"] == batch
