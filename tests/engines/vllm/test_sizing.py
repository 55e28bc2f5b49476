"""What vLLM is started with, on machines that are made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.models.safetensors_files import write_folder
from vllm_obtain.config.settings import Settings
from vllm_obtain.engines.adapter import Sizing
from vllm_obtain.engines.vllm.adapter import Vllm
from vllm_obtain.engines.vllm.sizing import AS_IT_IS, GIB, size
from vllm_obtain.errors import SettingsError
from vllm_obtain.hardware.machine import GPU, Machine
from vllm_obtain.models import Model, ModelCatalog

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "max_position_embeddings": 8192,
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
}
PER_TOKEN = 2 * 32 * 8 * 128 * 2


def cpu(memory: int = 24, cores: int = 8) -> Machine:
    return Machine("Linux", "x86_64", "a cpu", cores, cores, cores, memory * GIB)


def gpu(memory: int = 80, cores: int = 32) -> Machine:
    cards = (GPU("a card", memory * GIB),)
    return Machine("Linux", "x86_64", "a cpu", cores, cores, cores, 256 * GIB, cards)


def model(folder: Path, config: dict[str, object] | None = None) -> Model:
    write_folder(folder / "m", config={**LLAMA, **(config or {})})
    return ModelCatalog(folder).find("m")


def plan(folder: Path, machine: Machine, **values: str) -> Sizing:
    variables = {name.upper(): value for name, value in values.items()}
    return size(model(folder), Settings.load(variables), machine)


def argument(plan: Sizing, name: str) -> str | None:
    found = plan.arguments
    return found[found.index(name) + 1] if name in found else None


def test_a_cpu_gets_a_cache_in_whole_gib_and_small_steps(tmp_path: Path) -> None:
    sizing = plan(tmp_path, cpu())
    assert sizing.env["VLLM_CPU_KVCACHE_SPACE"] == "5"
    assert sizing.limits.pool_tokens == 5 * GIB // PER_TOKEN
    assert (sizing.limits.slots, sizing.limits.context) == (64, 8192)
    assert "--enforce-eager" in sizing.arguments
    assert argument(sizing, "--max-num-batched-tokens") == "128"
    assert argument(sizing, "--gpu-memory-utilization") is None


def test_a_context_is_never_longer_than_the_cache(tmp_path: Path) -> None:
    sizing = plan(tmp_path, cpu(memory=4))
    assert sizing.limits.context == sizing.limits.pool_tokens == GIB // PER_TOKEN
    assert argument(sizing, "--max-model-len") == str(sizing.limits.context)


def test_a_gpu_gets_several_http_fronts_by_its_cores(tmp_path: Path) -> None:
    sizing = plan(tmp_path, gpu(), max_concurrent_requests="500")
    assert argument(sizing, "--api-server-count") == "4"
    assert argument(sizing, "--max-num-seqs") == "256"
    assert argument(sizing, "--gpu-memory-utilization") == "0.9"
    assert argument(sizing, "--kv-cache-memory-bytes") is None
    assert sizing.env == {"VLLM_HOST_IP": "127.0.0.1"}
    assert argument(plan(tmp_path, gpu(cores=4)), "--api-server-count") is None
    assert (
        argument(plan(tmp_path, gpu(), max_concurrent_requests="8"), "--api-server-count") is None
    )


def test_two_models_on_a_gpu_get_half_each_and_a_cache_of_a_said_size(tmp_path: Path) -> None:
    sizing = plan(tmp_path, gpu(), max_concurrent_models="2")
    assert argument(sizing, "--gpu-memory-utilization") == "0.45"
    cache = int(argument(sizing, "--kv-cache-memory-bytes") or 0)
    assert 32 * GIB < cache < 34 * GIB
    assert sizing.limits.pool_tokens == cache // PER_TOKEN


def test_vllm_does_not_run_the_template_of_a_model(tmp_path: Path) -> None:
    assert argument(plan(tmp_path, cpu()), "--chat-template") == AS_IT_IS


@pytest.mark.parametrize("machine", [cpu(), gpu()], ids=["cpu", "gpu"])
def test_no_code_of_a_model_is_trusted(tmp_path: Path, machine: Machine) -> None:
    config = {"architectures": ["Own"], "auto_map": {"AutoModelForCausalLM": "own.Own"}}
    sizing = size(model(tmp_path, config), Settings.load({}), machine)
    assert not any("remote-code" in word.replace("_", "-") for word in sizing.arguments)
    given = Settings.load({"VLLM_EXTRA_ARGS": "--trust-remote-code"})
    assert "--trust-remote-code" in size(model(tmp_path, config), given, machine).arguments


def test_settings_reach_vllm(tmp_path: Path) -> None:
    sizing = plan(
        tmp_path,
        gpu(),
        vllm_max_model_len="1000",
        vllm_tensor_parallel_size="2",
        vllm_pipeline_parallel_size="2",
        vllm_distributed_executor="RAY",
        vllm_extra_args="--quantization fp8 --chat-template 'a b.jinja'",
    )
    assert argument(sizing, "--max-model-len") == "1000"
    assert argument(sizing, "--tensor-parallel-size") == "2"
    assert argument(sizing, "--pipeline-parallel-size") == "2"
    assert argument(sizing, "--distributed-executor-backend") == "ray"
    assert sizing.arguments[-3:] == ["fp8", "--chat-template", "a b.jinja"]
    assert "VLLM_HOST_IP" not in sizing.env


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("--max_model_len=5", "set VLLM_MAX_MODEL_LEN"),
        ("--uds /x", "must not contain --uds"),
        ("'--a", "No closing quotation"),
    ],
)
def test_extra_arguments_that_are_ours_are_refused(value: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"VLLM_EXTRA_ARGS .*{message}"):
        Settings.load({"VLLM_EXTRA_ARGS": value})


def test_a_folder_that_says_little_gets_defaults(tmp_path: Path) -> None:
    write_folder(tmp_path / "m", config={"architectures": ["X"]})
    sizing = size(ModelCatalog(tmp_path).find("m"), Settings.load({}), cpu())
    assert sizing.limits.context == 4096
    assert sizing.limits.pool_tokens == 64 * 1024


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, 32 * 576 * 2),
        ({"text_config": {**LLAMA, "num_hidden_layers": 2}}, 2 * 2 * 8 * 128 * 2),
        ({"head_dim": 64}, PER_TOKEN // 2),
    ],
)
def test_the_cache_of_other_attentions(
    tmp_path: Path, config: dict[str, object], expected: int
) -> None:
    sizing = size(model(tmp_path, config), Settings.load({}), cpu(memory=64))
    cache = int(sizing.env["VLLM_CPU_KVCACHE_SPACE"]) * GIB
    assert sizing.limits.pool_tokens == cache // expected


def test_the_command_is_one_process_of_the_named_interpreter(tmp_path: Path) -> None:
    settings = Settings.load({"VLLM_PYTHON": "/opt/v/bin/python"})
    one = model(tmp_path)
    sizing = Vllm(settings).plan(one, settings, cpu())
    launch = Vllm(settings).launch(one, sizing, Path("/tmp/x/1/e.sock"))
    python, unbuffered, server, arguments = launch.command
    assert (python, unbuffered) == ("/opt/v/bin/python", "-u")
    assert server.endswith("vllm/server.py")
    assert json.loads(arguments)[:4] == ["serve", str(tmp_path / "m"), "--uds", "/tmp/x/1/e.sock"]


def test_a_model_that_sees_gets_as_many_images_as_a_request_may_have(tmp_path: Path) -> None:
    assert argument(plan(tmp_path, cpu()), "--limit-mm-per-prompt") is None
    seeing = model(tmp_path, {"vision_config": {"depth": 1}})
    (seeing.path / "preprocessor_config.json").write_text("{}")
    seeing = ModelCatalog(tmp_path).find("m")
    sizing = size(seeing, Settings.load({"IMAGE_MAX_COUNT": "3"}), cpu())
    assert json.loads(argument(sizing, "--limit-mm-per-prompt") or "")["image"] == 3
    assert argument(sizing, "--mm-processor-cache-gb") == "0.5"
