"""Images on a real vLLM; skipped where there is none. Its start takes half a minute."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.contract.target import run_concurrently
from tests.fleet import engine
from tests.service import ROOT, Service
from tests.vision.conftest import SEER
from tests.vision.folder import IMAGE_TOKENS, write_folder
from tests.vision.model import png
from tests.vision.test_responses import (
    ONE,
    TWO,
    ask,
    chat,
    content,
    logprobs,
    part,
    read_stream,
    text,
)
from tests.vision.test_unsupported import refusal

VLLM = engine("vllm")
MISSING = VLLM.why_unavailable()
pytestmark = [pytest.mark.skipif(bool(MISSING), reason=str(MISSING)), pytest.mark.timeout(400)]
# What stands around the tokens of an image.
AROUND = 3


@pytest.fixture(scope="module")
def vision_service(model_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service on vLLM with a model that can see."""
    (source,) = (ROOT / "models" / "smollm2-135m").glob("*.gguf")
    models = tmp_path_factory.mktemp("folders")
    write_folder(models / SEER, source)
    env = {
        "MODELS_DIR": str(models),
        "INFERENCE_ENGINE": "vllm",
        "VLLM_PYTHON": VLLM.settings.vllm_python,
        "VLLM_EXTRA_ARGS": "--dtype float32",
        "ENABLE_CACHING": "false",
    }
    service = Service(["run.py", "--no-fetch"], tmp_path_factory.mktemp("vllm"), env)
    try:
        service.start(timeout=300)
        yield service
    finally:
        service.kill_everything()


def test_images_decide_what_is_said(vision_service: Service) -> None:
    asked = [
        ask(vision_service, text("What is"), part(image), text("this?"))
        for image in (ONE, TWO, ONE)
    ]
    one, two, again = map(logprobs, asked)
    assert one == pytest.approx(again, abs=1e-3)
    assert one != pytest.approx(two, abs=1e-2)
    plain = ask(vision_service, text("What is"), text("this?"))["usage"]["prompt_tokens"]
    # The line break between two texts is a token; none stands beside an image.
    assert asked[0]["usage"]["prompt_tokens"] == plain - 1 + IMAGE_TOKENS + AROUND


def test_two_images_in_order(vision_service: Service) -> None:
    orders = [[ONE, TWO], [TWO, ONE], [ONE, TWO]]
    found = [logprobs(ask(vision_service, *map(part, images))) for images in orders]
    assert found[0] == pytest.approx(found[2], abs=1e-3)
    assert found[0] != pytest.approx(found[1], abs=1e-2)


def test_what_works_without_images_works_with_them(vision_service: Service) -> None:
    plain = ask(vision_service, part(ONE), text("?"), logprobs=False)
    said, usage = read_stream(vision_service, part(ONE), text("?"), logprobs=False)
    assert said == content(plain) and usage["completion_tokens"] == 4
    chosen = ask(vision_service, part(ONE), guided_choice=["apple", "pear"], max_tokens=8)
    assert content(chosen) in ("apple", "pear")
    drawn = ask(vision_service, part(ONE), n=2, temperature=1, seed=3)
    assert content(drawn, 0) != content(drawn, 1)
    images = [png(seed=10 + number) for number in range(8)]
    alone = [logprobs(ask(vision_service, part(image))) for image in images]
    found = run_concurrently([partial(ask, vision_service, part(image)) for image in images])
    for one, expected in zip(found, alone, strict=True):
        assert logprobs(one) == pytest.approx(expected, abs=0.01)


def test_damage_and_confusion_are_refused(vision_service: Service) -> None:
    path = "/v1/chat/completions"
    error = refusal(vision_service, path, chat(text("?"), part(ONE[:-300])))
    assert error["code"] == "invalid_image"
    assert error["param"] == "messages[0].content[1].image_url"
    assert "<image>" in refusal(vision_service, path, chat(text("<image>"), part(ONE)))["message"]
    assert ask(vision_service, part(ONE))["usage"]["completion_tokens"] == 4
