from __future__ import annotations

import base64
from contextlib import nullcontext

import pytest

from tests.vision.model import png
from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import UnsupportedParameter
from vllm_obtain.gateway.inference.context import ParameterPolicy
from vllm_obtain.gateway.inference.image_inputs import _check_detail
from vllm_obtain.images.load import InvalidImage, load
from vllm_obtain.protocol.engine_request import ImageInput
from vllm_obtain.protocol.messages import ImagePart

PNG = base64.b64encode(png(3, 2)).decode()


def load_urls(*urls: str, **env: str) -> list[ImageInput]:
    parts = [(ImagePart.placed(url, f"at[{n}]"), f"at[{n}]") for n, url in enumerate(urls)]
    return load(parts, Settings.load(env), lambda _: nullcontext())


@pytest.mark.parametrize(
    "url",
    [
        f"data:image/png;base64,{PNG}",
        f"DATA:image/jpeg;name=x;base64,{PNG}",
        f"data:;base64,{PNG[:40]}\r\n {PNG[40:]}",
        f"data:image/png;base64,{PNG.rstrip('=')}",
    ],
)
def test_data_urls(url: str) -> None:
    """What the file is counts, not what the URL calls it."""
    (found,) = load_urls(url)
    assert found == ImageInput(png(3, 2), "image/png", 3, 2, "at[0]")
    assert found.base64 == PNG


def test_private_addresses_are_refused_unless_allowed() -> None:
    with pytest.raises(InvalidImage, match="IMAGE_PRIVATE_ADDRESSES=true") as caught:
        load_urls(f"data:image/png;base64,{PNG}", "http://127.0.0.1:1/a.png")
    assert (caught.value.param, caught.value.status) == ("at[1]", 400)


def test_urls_can_be_switched_off() -> None:
    with pytest.raises(InvalidImage, match="IMAGE_URLS=false"):
        load_urls("https://example.org/a.png", IMAGE_URLS="false")
    assert load_urls(f"data:image/png;base64,{PNG}", IMAGE_URLS="false")


def test_a_wish_for_detail_is_refused_or_told() -> None:
    part = ImagePart.placed("data:", "at", detail="high")
    with pytest.raises(UnsupportedParameter) as caught:
        _check_detail(part, "at", ParameterPolicy("strict"))
    assert caught.value.param == "at.detail"
    policy = ParameterPolicy("contract")
    _check_detail(part, "at", policy)
    assert policy.header_value == "at.detail"
