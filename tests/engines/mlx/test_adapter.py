"""The MLX adapter: what it says without mlx, and the whole service over a tiny model with it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.engine_requests import engine_request
from tests.engines.machines import PLAIN, pretend
from tests.engines.mlx.model import HEADS, HIDDEN, KV_HEADS, LAYERS, write_model
from tests.models.gguf_files import write_gguf
from tests.service import Service
from tests.waiting import eventually
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.mlx import openblas
from vllm_obtain.engines.mlx.adapter import Mlx
from vllm_obtain.engines.mlx.sizing import kv_bytes_per_token, size, wide_bytes
from vllm_obtain.hardware.machine import Machine
from vllm_obtain.models import Model, ModelCatalog
from vllm_obtain.protocol.parsing import parse_chat, parse_completion

MACHINE = Machine("Linux", "x86_64", "A CPU", 4, 8, 4, 16 << 30)
CPU = Settings(device_type="cpu")


@pytest.fixture
def model(tmp_path: Path) -> Model:
    write_model(tmp_path / "tiny")
    return ModelCatalog(tmp_path).find("tiny")


def test_a_gguf_file_needs_a_conversion(tmp_path: Path, model: Model) -> None:
    (tmp_path / "other").mkdir()
    write_gguf(tmp_path / "other" / "a.gguf")
    gguf = ModelCatalog(tmp_path).find("other")
    assert "must be converted" in (Mlx().why_not_loadable(gguf) or "")
    assert Mlx().why_not_loadable(model) is None


def test_a_missing_package_is_reported_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch, PLAIN)
    assert "pip install 'mlx[cpu]>=0.32' 'mlx-lm>=0.32.2,<0.33'" in (Mlx().why_unavailable() or "")


def test_the_sizing_depends_on_the_model_and_the_machine(model: Model) -> None:
    plan = size(model, CPU, MACHINE)
    assert plan.limits.context == 8192 and plan.limits.slots == 32
    assert plan.limits.pool_tokens == 4 * 8192
    assert plan.parameters["memory_bytes"] == int(MACHINE.memory_bytes * 0.8)
    assert plan.parameters["prefill_chunk"] == 64
    small = replace(MACHINE, memory_bytes=4 << 20)
    per_token = LAYERS * 2 * KV_HEADS * HIDDEN // HEADS * 4
    tight = size(model, CPU, small)
    caches = int(((4 << 20) * 0.8 - model.size_bytes) * 0.8)
    assert tight.limits.context == tight.limits.pool_tokens == int(caches / per_token / 1.5)


def test_the_cost_of_a_token_is_read_from_the_configuration() -> None:
    base = {"num_attention_heads": 8, "hidden_size": 512, "num_hidden_layers": 4}
    assert kv_bytes_per_token(base) == 4 * 2 * 8 * 64 * 2
    assert kv_bytes_per_token(base | {"num_key_value_heads": 2}) == 4 * 2 * 2 * 64 * 2
    assert kv_bytes_per_token({"text_config": base | {"head_dim": 32}}) == 4 * 2 * 8 * 32 * 2
    assert kv_bytes_per_token({}) is None
    assert kv_bytes_per_token(base | {"num_attention_heads": "x"}) is None


def test_weights_are_converted_to_float32_on_cpus_with_enough_memory(model: Model) -> None:
    affine = {"quantization": {"bits": 4, "group_size": 32}, "torch_dtype": "float16"}
    assert wide_bytes(500, affine) == 3200
    assert wide_bytes(500, {"torch_dtype": "bfloat16"}) == wide_bytes(500, {}) == 1000
    assert wide_bytes(500, {"torch_dtype": "float32"}) == 500
    assert size(model, CPU, MACHINE).parameters["widen"]
    tight = replace(MACHINE, memory_bytes=int(model.size_bytes / 0.8 * 1.9))
    assert not size(model, CPU, tight).parameters["widen"]
    assert not size(model, CPU, replace(MACHINE, system="Darwin")).parameters["widen"]


def test_a_fast_blas_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "x86_64-linux-gnu" / "libopenblas.so.0"
    library.parent.mkdir()
    places = [f"{tmp_path}/none/*", f"{tmp_path}/*/libopenblas.so.0"]
    assert openblas.preload(4, places) == {}
    library.touch()
    assert openblas.preload(4, places) == {}  # it is none
    openblas._is_loadable.cache_clear()
    library.unlink()
    library.symlink_to(_a_library())
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    expected = {"LD_PRELOAD": str(library), "OPENBLAS_NUM_THREADS": "4"}
    assert openblas.preload(4, places) == expected
    monkeypatch.setenv("LD_PRELOAD", "/other.so")
    assert openblas.preload(4, places)["LD_PRELOAD"] == f"{library}:/other.so"
    monkeypatch.setenv("LD_PRELOAD", "/mine/libopenblas.so.0")
    chosen = {"LD_PRELOAD": "/mine/libopenblas.so.0", "OPENBLAS_NUM_THREADS": "4"}
    assert openblas.preload(4, places) == chosen


def _a_library() -> Path:
    import psutil

    return next(Path(psutil.__file__).parent.glob("*.so"))


def test_request_bodies_contain_all_parameters() -> None:
    chat = parse_chat(
        b'{"messages":[{"role":"user","content":"x"}],"logprobs":true,"seed":3,"stop":"a"}'
    )
    body = Mlx().body(engine_request(chat, "<s>x", grammar="g"), None)
    assert (body["max_tokens"], body["seed"], body["stop"]) == (-1, 3, ["a"])
    assert (body["prompt"], body["add_special_tokens"], body["grammar"]) == ("<s>x", False, "g")
    assert (body["logprobs"], body["top_k"]) == (0, 40)
    assert "logit_bias" not in body
    text = parse_completion(b'{"prompt":"x","logprobs":2,"logit_bias":{"5":1},"temperature":0}')
    body = Mlx().body(engine_request(text, "x"), 7)
    assert (body["prompt"], body["max_tokens"], body["logprobs"]) == ("x", 7, 2)
    assert body["add_special_tokens"] and "grammar" not in body
    assert (body["logit_bias"], body["temperature"], body["top_k"]) == ({"5": 1.0}, 0, 0)


# --- The whole service ----------------------------------------------------------------------------


@pytest.mark.slow
def test_the_service_generates_with_mlx(tmp_path: Path) -> None:
    write_model(tmp_path / "models" / "tiny", context=1024)
    env = {
        "MODELS_DIR": str(tmp_path / "models"),
        "INFERENCE_ENGINE": "mlx",
        "DEVICE_TYPE": "cpu",
        "ENABLE_CACHING": "false",
    }
    with Service(["run.py", "--no-fetch"], tmp_path, env) as service:
        assert service.engine()["engine"] == "mlx"
        _check_responses(service)
        _gives_choices(service)
        _holds_a_schema(service)
        _refuses(service)
        _frees_the_slot(service)


def _check_responses(service: Service) -> None:
    rules = {"temperature": 0, "max_tokens": 12, "logprobs": True, "top_logprobs": 2}
    first = service.chat("Say it.", **rules)
    again = service.chat("Say it.", **rules)
    (choice,) = first["choices"]
    assert again["choices"] == first["choices"] and len(choice["message"]["content"]) == 12
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] == 0  # too short to keep
    assert len(choice["logprobs"]["content"]) == 12
    assert len(choice["logprobs"]["content"][0]["top_logprobs"]) == 2
    body = {"prompt": "p" * 100, "max_tokens": 5, "temperature": 0, "stream": True}
    _, _, streamed = service.request("/v1/completions", body)
    events = [line for line in streamed.decode().split("\n\n") if line]
    texts = [json.loads(event[6:])["choices"] for event in events[:-1]]
    assert len("".join(choices[0]["text"] for choices in texts if choices)) == 5
    assert events[-1] == "data: [DONE]"
    plain = service.json("/v1/completions", body | {"stream": False})
    assert plain["usage"]["prompt_tokens_details"]["cached_tokens"] == 99


def _gives_choices(service: Service) -> None:
    rules = {"n": 3, "max_tokens": 12, "seed": 5, "logit_bias": {"257": -100}}
    response = service.chat("Say it.", temperature=1, **rules)
    texts = [choice["message"]["content"] for choice in response["choices"]]
    assert len(set(texts)) == 3 and response["usage"]["completion_tokens"] == 36
    alike = service.chat("Say it.", **rules | {"temperature": 0})
    assert len({choice["message"]["content"] for choice in alike["choices"]}) == 1
    assert len(alike["choices"]) == 3 and alike["usage"]["completion_tokens"] == 36


def _holds_a_schema(service: Service) -> None:
    schema = {"type": "object", "properties": {"x": {"enum": [7]}}, "required": ["x"]}
    schema["additionalProperties"] = False
    named = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    answer = service.chat("Say it.", response_format=named, max_tokens=100, temperature=0)
    (choice,) = answer["choices"]
    assert json.loads(choice["message"]["content"]) == {"x": 7}
    schema["properties"] = {"x": {"type": "nothing"}}
    body = {"messages": [{"role": "user", "content": "x"}], "response_format": named}
    status, _, refused = service.request("/v1/chat/completions", body)
    assert (status, json.loads(refused)["error"]["param"]) == (400, "response_format")


def _refuses(service: Service) -> None:
    status, _, body = service.request("/v1/completions", {"prompt": "x" * 2000})
    assert (status, json.loads(body)["error"]["code"]) == (400, "context_length_exceeded")
    many = {"prompt": "x", "n": service.engine()["slots"] + 1}
    status, _, body = service.request("/v1/completions", many)
    assert (status, json.loads(body)["error"]["param"]) == (400, "n")
    status, _, body = service.request("/v1/completions", {"prompt": "x", "logit_bias": {"999": 1}})
    assert (status, json.loads(body)["error"]["param"]) == (400, "logit_bias")


def _frees_the_slot(service: Service) -> None:
    with pytest.raises(TimeoutError):
        service.request(
            "/v1/completions",
            {"prompt": "x", "max_tokens": 1000, "logit_bias": {"257": -100}},
            timeout=0.05,
        )
    eventually(lambda: service.engine()["in_flight"] == 0)
