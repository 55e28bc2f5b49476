"""Which file lets which model see."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models.gguf_files import write_gguf
from tests.models.safetensors_files import CONFIG, write_folder
from vllm_obtain.models import Model
from vllm_obtain.models.mmproj import pick
from vllm_obtain.models.scan import scan

CLIP = {
    "general.architecture": "clip",
    "clip.has_vision_encoder": True,
    "clip.projector_type": "gemma3",
    "clip.vision.projection_dim": 64,
}


def models_by_name(folder: Path) -> dict[str, Model]:
    return {model.name: model for model in scan(folder)}


@pytest.mark.parametrize(
    ("stem", "others", "projectors", "found"),
    [
        ("gemma-3-4b-it-Q4_K_M", [], ["mmproj-model-f16.gguf"], "mmproj-model-f16.gguf"),
        ("gemma-3-4b-it-Q4_K_M", ["gemma-3-4b-it-Q8_0"], ["mmproj-F16.gguf"], "mmproj-F16.gguf"),
        ("SmolVLM-256M-Instruct-Q8_0", [], ["mmproj-SmolVLM-256M-Instruct-f16.gguf"], 0),
        ("moondream2-text-model-f16", ["other"], ["moondream2-mmproj-f16.gguf"], 0),
        ("Qwen2.5-VL-7B-UD-IQ2_XXS", ["llama"], ["mmproj-Qwen2.5-VL-7B-BF16.gguf"], 0),
        # As exact as can be, and fast everywhere.
        ("a", [], ["mmproj-F32.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"], "mmproj-F16.gguf"),
        ("a", [], ["mmproj-F32.gguf", "mmproj-Q8_0.gguf"], "mmproj-Q8_0.gguf"),
        # Of two models, each its own.
        ("a-Q8_0", ["b-Q8_0"], ["mmproj-b-f16.gguf", "mmproj-a-f16.gguf"], "mmproj-a-f16.gguf"),
        ("a-Q8_0", ["b-Q8_0"], ["mmproj-b-f16.gguf"], None),
        ("a-Q8_0", ["b-Q8_0"], ["mmproj-F16.gguf"], None),
        ("a", [], [], None),
    ],
)
def test_pairs(
    stem: str, others: list[str], projectors: list[str], found: str | int | None
) -> None:
    expected = projectors[found] if isinstance(found, int) else found
    assert pick(stem, [stem, *others], projectors) == expected


def test_a_projector_belongs_to_the_model_beside_it(tmp_path: Path) -> None:
    write_gguf(tmp_path / "see" / "see-Q8_0.gguf")
    before = models_by_name(tmp_path)["see"]
    write_gguf(tmp_path / "see" / "mmproj-F16.gguf", CLIP, tensors=1)
    write_gguf(tmp_path / "blind" / "blind.gguf")
    found = models_by_name(tmp_path)
    assert set(found) == {"see", "blind"}
    see = found["see"]
    assert (see.supports_images, see.why_no_images, see.problem) == (True, "", None)
    assert see.projector is not None and see.projector.kind == "gemma3"
    assert see.revision != before.revision
    assert see.size_bytes > before.size_bytes
    assert not found["blind"].supports_images and "mmproj" in found["blind"].why_no_images


@pytest.mark.parametrize(
    ("metadata", "why"),
    [
        ({"general.architecture": "llama"}, "is not a vision projector"),
        ({"clip.has_vision_encoder": False}, "is not for images"),
        ({"clip.vision.projection_dim": 48}, "for another model"),
        ({"clip.vision.projection_dim": "wide"}, "not"),
    ],
)
def test_a_projector_of_no_use_leaves_a_model_that_reads(
    tmp_path: Path, metadata: dict[str, object], why: str
) -> None:
    write_gguf(tmp_path / "see" / "see.gguf")
    write_gguf(tmp_path / "see" / "mmproj.gguf", {**CLIP, **metadata})
    (model,) = scan(tmp_path)
    assert (model.problem, model.supports_images, model.projector) == (None, False, None)
    assert (
        model.why_no_images.startswith("Its projector mmproj.gguf") and why in model.why_no_images
    )


def test_a_damaged_projector_too(tmp_path: Path) -> None:
    write_gguf(tmp_path / "see" / "see.gguf")
    path = write_gguf(tmp_path / "see" / "mmproj.gguf", CLIP, tensors=1)
    path.write_bytes(path.read_bytes()[:-1])
    (model,) = scan(tmp_path)
    assert model.problem is None and "truncated" in model.why_no_images


def test_folders(tmp_path: Path) -> None:
    seeing = {**CONFIG, "vision_config": {"hidden_size": 8}}
    write_folder(tmp_path / "text")
    write_folder(tmp_path / "unsaid", config=seeing)
    folder = write_folder(tmp_path / "seeing", config=seeing)
    (folder / "preprocessor_config.json").write_text("{}")
    found = models_by_name(tmp_path)
    assert found["seeing"].supports_images
    assert not found["text"].supports_images and "config.json" in found["text"].why_no_images
    assert (
        not found["unsaid"].supports_images
        and "preprocessor_config.json" in found["unsaid"].why_no_images
    )
