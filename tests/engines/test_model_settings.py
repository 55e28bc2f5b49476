"""What engines make of the settings of single models: plans, refusals, and llama.cpp for real."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.models.gguf_files import write_gguf
from tests.models.safetensors_files import write_folder
from tests.service import ROOT, Service
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines import model_options, registry, selection
from vllm_obtain.engines.llama_cpp.adapter import LlamaCpp
from vllm_obtain.engines.llama_cpp.sizing import size
from vllm_obtain.engines.mlx import sizing as mlx_sizing
from vllm_obtain.engines.vllm import sizing as vllm_sizing
from vllm_obtain.errors import EngineFailed
from vllm_obtain.hardware.machine import GPU, Machine
from vllm_obtain.models import Model, ModelCatalog

MODEL = "smollm2-135m"


def machine(memory: int) -> Machine:
    return Machine("Linux", "x86_64", "CPU", 4, 4, 4, memory, ())


def settings(folder: Path, text: str, **env: str) -> Settings:
    file = folder / "models.toml"
    file.write_text(text)
    return Settings.load({"MODEL_SETTINGS": str(file), "DEVICE_TYPE": "cpu", **env})


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A model whose tokens take 256 bytes of cache as 16-bit floats."""
    write_gguf(tmp_path / "models" / "a.gguf")
    return ModelCatalog(tmp_path / "models").find("a")


def test_the_cache_is_sized_by_the_true_bytes_of_its_values(tmp_path: Path, model: Model) -> None:
    pools = {}
    for kind in ("f16", "q8_0", "q4_0"):
        sizing = size(model, settings(tmp_path, f"[a]\nkv_cache_type = '{kind}'"), machine(2**24))
        pools[kind] = sizing.limits.pool_tokens
        assert sizing.parameters["cache_type"] == kind
    affordable = 2**24 * 0.2
    assert pools["f16"] == int(affordable / 256)
    assert pools["q8_0"] == int(affordable / 272 * 2)
    assert pools["q4_0"] == int(affordable / 144 * 2)


def test_a_context_is_kept_or_refused_by_name(tmp_path: Path, model: Model) -> None:
    sizing = size(model, settings(tmp_path, "[a]\ncontext = 100"), machine(2**34))
    assert (sizing.limits.context, sizing.parameters["context"]) == (100, 100)
    assert size(model, settings(tmp_path, ""), machine(2**34)).limits.context == 512
    with pytest.raises(EngineFailed, match="sets context = 2048, but the KV cache holds"):
        header = {"llama.context_length": 4096, "llama.block_count": 4096}
        write_gguf(tmp_path / "big" / "a.gguf", header)
        big = ModelCatalog(tmp_path / "big").find("a")
        size(big, settings(tmp_path, "[a]\ncontext = 2048"), machine(2**20))


@pytest.mark.parametrize(
    ("engine", "text", "why"),
    [
        ("llama_cpp", "context = 1000", "context = 1000 for it: the model supports at most 512"),
        (
            "llama_cpp",
            "kv_cache_type = 'fp8'",
            'kv_cache_type = "fp8" for it: llama.cpp supports f16,',
        ),
        ("llama_cpp", "gpu = 0", "gpu = 0 for it: llama_cpp runs on "),
        ("mlx", "kv_cache_type = 'f16'", "the model's float type"),
        ("mlx", "ngram = 4", "no speculative decoding"),
        ("mlx", "draft_model = '.'", "no speculative decoding"),
        ("mlx", "gpu = [0, 1]", "MLX runs on one GPU"),
        ("vllm", "kv_cache_type = 'q8_0'", "vLLM supports f16 and fp8"),
        ("vllm", "kv_cache_type = 'fp8'", "on GPUs only"),
        ("vllm", "ngram = 4\nsampling.min_p = 0.1", "together with min_p"),
        ("vllm", "draft_model = 'models.toml'", "requires a Hugging Face folder"),
        ("llama_cpp", "draft_model = '.'", "llama.cpp requires a GGUF file here"),
        ("llama_cpp", "lora = '.'\nbase = 'b'", "llama.cpp requires a GGUF file here"),
        ("mlx", "lora = '.'\nbase = 'b'", "mlx does not support it"),
        ("vllm", "draft_model = '.'", "vLLM supports it on GPUs only"),
        ("vllm", "lora = '.'\nbase = 'b'", "vllm does not support it"),
    ],
)
def test_what_an_engine_cannot_do_is_named(
    tmp_path: Path, model: Model, engine: str, text: str, why: str
) -> None:
    (tmp_path / "models.toml").touch()
    made = settings(tmp_path, f"[a]\n{text}")
    refused = registry.adapter(engine, made).unsupported_setting(model)
    assert refused is not None and refused.startswith("MODEL_SETTINGS sets ")
    assert why in refused


def test_an_engine_that_can_takes_the_place_of_one_that_cannot(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaCpp, "why_unavailable", lambda _: None)
    only = settings(tmp_path, "[a]\nkv_cache_type = 'fp8'", INFERENCE_ENGINE="llama_cpp")
    assert "kv_cache_type" in str(selection.why_not_servable(model, only))
    with pytest.raises(EngineFailed, match="MODEL_SETTINGS sets kv_cache_type"):
        selection.rank_engines(model, only)
    pinned = settings(
        tmp_path, "[a]\nengine = 'llama.cpp'", INFERENCE_ENGINE="vllm", MODEL_ENGINES="a=mlx"
    )
    (found,) = selection.rank_engines(model, pinned)
    assert found.adapter.name == "llama_cpp"
    assert found.reason.startswith("MODEL_SETTINGS names llama_cpp for it; ")


def complete(service: Service, prompt: str, **more: Any) -> tuple[int, Any]:
    body = {"model": MODEL, "prompt": prompt, "temperature": 0, **more}
    status, _, answer = service.request("/v1/completions", body)
    return status, json.loads(answer)


def sky(service: Service) -> str:
    """What the model says of the sky.

    The prompt is in the engine's cache when it counts, whoever asked what before: how much of it is
    read at a time is a matter of rounding, and so of words.
    """
    complete(service, "The sky is", max_tokens=1)
    return str(complete(service, "The sky is", max_tokens=24)[1]["choices"][0]["text"])


@pytest.fixture(scope="module")
def plain(service: Service) -> str:
    """What the model says without any settings."""
    return sky(service)


def service_with(folder: Path, text: str) -> Service:
    (folder / "models.toml").write_text(f"[{MODEL}]\n{text}")
    env = {"MODEL_SETTINGS": str(folder / "models.toml"), "INFERENCE_ENGINE": "llama_cpp"}
    return Service(["run.py", "--no-fetch"], folder, env, cwd=ROOT)


def test_a_short_context_and_a_small_cache_on_llama_cpp(
    tmp_path: Path, plain: str, model_here: None
) -> None:
    with service_with(tmp_path, "context = 64\nkv_cache_type = 'q8_0'") as service:
        assert service.engine()["context"] == 64
        text = sky(service)
        # Rounding may lead elsewhere, later.
        assert text[:12] == plain[:12]
        status, answer = complete(service, "word " * 100)
        assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
        assert "context length is 64 tokens" in answer["error"]["message"]
        whole = complete(service, "1 2 3 4")[1]
        assert whole["choices"][0]["finish_reason"] == "length"
        assert whole["usage"]["total_tokens"] <= 64


def test_a_draft_model_takes_room_and_has_the_same_vocabulary(tmp_path: Path, model: Model) -> None:
    write_gguf(tmp_path / "draft.gguf")
    drafting = settings(tmp_path, "[a]\ndraft_model = 'draft.gguf'")
    sizing = size(model, drafting, machine(2**24))
    alone = size(model, settings(tmp_path, ""), machine(2**24))
    assert sizing.limits.pool_tokens == alone.limits.pool_tokens // 2, "it has a cache of its own"
    assert sizing.parameters["draft_model"] == str(tmp_path / "draft.gguf")
    guesses = sizing.parameters["n_parallel"] * sizing.parameters["drafted"]
    assert sizing.parameters["n_ctx"] - sizing.limits.pool_tokens >= guesses > 0
    write_gguf(tmp_path / "draft.gguf", {"tokenizer.ggml.tokens": ["a"]})
    with pytest.raises(EngineFailed, match="its vocabulary has 1 tokens, but that of 'a' has 3"):
        size(model, drafting, machine(2**24))


def test_what_was_planned_reaches_llama_cpp(tmp_path: Path, model: Model) -> None:
    """In a process of its own: the library is never loaded into ours."""
    (tmp_path / "l.gguf").touch()
    lines = "ngram = 8\nkv_cache_type = 'q4_0'\nbase = 'b'\nlora = 'l.gguf'\ncontext = 64"
    plan = size(model, settings(tmp_path, f"[a]\n{lines}"), machine(2**30)).parameters
    config = json.dumps({"model": "m", "socket": "s", **plan})
    ask = (
        "import json, sys; from vllm_obtain.engines.llama_cpp.server import parameters\n"
        "p = parameters(json.loads(sys.argv[1])); s = p.speculative\n"
        "print(p.cache_type_k.name, p.cache_type_v.name, p.kv_unified_per_slot, s.types[0].name,"
        " s.ngram_simple.size_m, p.lora_adapters[0].path)"
    )
    result = subprocess.run(
        [sys.executable, "-c", ask, config], capture_output=True, text=True, check=True
    )
    cache = "GGML_TYPE_Q4_0"
    kind = "COMMON_SPECULATIVE_TYPE_NGRAM_SIMPLE"
    assert result.stdout.split() == [cache, cache, "64", kind, "8", str(tmp_path / "l.gguf")]


@pytest.mark.serial  # the texts of a busy machine may differ in a late token
def test_a_draft_model_on_llama_cpp_leaves_the_text_alone(tmp_path: Path, plain: str) -> None:
    (path,) = (ROOT / "models" / MODEL).glob("*.gguf")
    with service_with(tmp_path, f"draft_model = '{path}'") as service:
        assert sky(service) == plain
        response = complete(service, "The sky is", max_tokens=6, temperature=0.8)[1]
        assert response["choices"][0]["text"]


def write_adapter(path: Path) -> None:
    """A LoRA adapter for the embedded model that says something else."""
    numpy = pytest.importorskip("numpy")
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 16.0)
    draw = numpy.random.default_rng(1)
    for layer in range(30):
        name = f"blk.{layer}.attn_q.weight"
        for part, shape in (("lora_a", (4, 576)), ("lora_b", (576, 4))):
            writer.add_tensor(f"{name}.{part}", draw.normal(0, 0.1, shape).astype("float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.serial  # the texts of a busy machine may differ in a late token
def test_an_adapter_is_a_model_of_its_own_and_ngrams_leave_the_text_alone(
    tmp_path: Path, plain: str
) -> None:
    write_adapter(tmp_path / "poet.gguf")
    poet = f"[Poet]\nbase = '{MODEL.upper()}'\nlora = 'poet.gguf'\ncontext = 128"
    text = f"ngram = 8\naliases = ['x']\n{poet}"
    with service_with(tmp_path, text) as service:
        listed = {each["id"]: each for each in service.json("/v1/models")["data"]}
        assert listed.keys() == {"Poet", MODEL, "x"}
        assert (listed["Poet"]["parent"], listed["Poet"]["context_length"]) == (MODEL, 128)
        assert listed["Poet"]["loadable"], listed["Poet"]["reason"]
        assert sky(service) == plain
        other = complete(service, "The sky is", max_tokens=24, model="poet")[1]
        assert (other["model"], service.engine()["model"]) == ("poet", "Poet")
        assert other["choices"][0]["text"] != plain


def test_the_name_of_an_adapters_model_is_its_own(tmp_path: Path, model: Model) -> None:
    write_gguf(tmp_path / "models" / "b.gguf")
    (tmp_path / "l.gguf").touch()
    text = "[a]\nbase = 'b'\nlora = 'l.gguf'\n[c]\nbase = 'none'\nlora = 'l.gguf'"
    table = settings(tmp_path, text).models
    found = {each.name: each for each in ModelCatalog(tmp_path / "models", table=table).models()}
    assert found.keys() == {"a", "b"}
    assert "uses its name" in str(found["a"].problem) and found["b"].problem is None


def test_the_other_engines_are_sized_by_what_was_set(tmp_path: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "hidden_size": 64,
    }
    write_folder(tmp_path / "models" / "m", config=config)
    folder = ModelCatalog(tmp_path / "models").find("m")
    made = settings(tmp_path, "[m]\ncontext = 64\nngram = 3", VLLM_MAX_MODEL_LEN="128")
    vllm = vllm_sizing.size(folder, made, machine(2**34))
    words = dict(itertools.pairwise(vllm.arguments))
    assert (words["--max-model-len"], vllm.limits.context) == ("64", 64)
    guess = json.loads(words["--speculative-config"])
    assert (guess["method"], guess["num_speculative_tokens"]) == ("ngram", 3)
    assert "--kv-cache-dtype" not in words
    mlx = mlx_sizing.size(folder, made, machine(2**34))
    assert (mlx.parameters["context"], mlx.limits.context) == (64, 64)
    smaller = settings(tmp_path, "[m]\nkv_cache_type = 'fp8'\ndraft_model = 'models/m'")
    fp8 = vllm_sizing.size(folder, smaller, machine(2**34))
    words = dict(itertools.pairwise(fp8.arguments))
    assert words["--kv-cache-dtype"] == "fp8"
    assert json.loads(words["--speculative-config"])["model"] == str(tmp_path / "models" / "m")
    pool = vllm_sizing.size(folder, settings(tmp_path, ""), machine(2**34)).limits.pool_tokens
    assert fp8.limits.pool_tokens == 2 * pool


def test_an_engine_sees_the_gpus_that_were_set(tmp_path: Path) -> None:
    cards = tuple(GPU(f"card {number}", number * 2**30) for number in (1, 2, 3))
    owner = settings(tmp_path, "[a]\ngpu = [2, 0]").models.of("a")
    seen = model_options.visible(dataclasses.replace(machine(2**34), gpus=cards), owner)
    assert [gpu.name for gpu in seen.gpus] == ["card 3", "card 1"]
    assert model_options.gpu_variables(owner)["CUDA_VISIBLE_DEVICES"] == "2,0"
