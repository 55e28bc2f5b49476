"""Loads the images of a request from data URLs and HTTP URLs, within the configured limits."""

from __future__ import annotations

import binascii
import re
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from vllm_obtain.config.settings import Settings
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.images.fetch import FetchError, ImageFetcher
from vllm_obtain.images.header import ImageHeaderError, read_header
from vllm_obtain.protocol.engine_request import ImageInput
from vllm_obtain.protocol.messages import ImagePart

LocatedParts = Sequence[tuple[ImagePart, str]]
Attach = Callable[[ImageFetcher], AbstractContextManager[None]]

_BASE64 = re.compile(r"data:[^,]*;base64", re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_MEGAPIXEL = 1_000_000


class InvalidImage(InvalidRequest):
    """An image that cannot be loaded, or exceeds a limit.

    Args:
        where: the request field of the image.
        why: what is wrong and what to do, as sentences.
    """

    code = "invalid_image"

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"Invalid '{where}': {why}", param=where)


def load(parts: LocatedParts, settings: Settings, attach: Attach) -> list[ImageInput]:
    """Load the images of a request.

    Args:
        parts: the images, each with its request field.
        settings: the service settings, with the limits.
        attach: interrupts a download when the client disconnects.

    Raises:
        InvalidImage: an image cannot be loaded, or exceeds a limit; names the field.
        ClientDisconnected: the client disconnected.
    """
    max_count = settings.image_max_count
    if len(parts) > max_count:
        raise InvalidImage(
            parts[max_count][1],
            f"the request has {len(parts)} images, which exceeds the limit of {max_count} "
            "(IMAGE_MAX_COUNT). Send fewer.",
        )
    deadline = time.monotonic() + settings.image_fetch_timeout
    fetcher = ImageFetcher(deadline, settings.image_max_mb << 20, settings.image_private_addresses)
    # Clients resend the images of earlier turns, so each URL is downloaded once per request.
    cache: dict[str, bytes] = {}
    images = []
    for part, where in parts:
        url = part.image_url.url
        if url[:5].lower() == "data:":
            data = _decode_data_url(url, where, settings.image_max_mb)
        else:
            data = cache.get(url) or _download(url, where, settings, fetcher, attach)
            cache[url] = data
        images.append(_check(data, where, settings.image_max_megapixels))
    return images


def _download(
    url: str, where: str, settings: Settings, fetcher: ImageFetcher, attach: Attach
) -> bytes:
    if not settings.image_urls:
        raise InvalidImage(where, "image URLs are disabled (IMAGE_URLS=false). Send a data URL.")
    with attach(fetcher):
        try:
            return fetcher.get(url)
        except FetchError as error:
            raise InvalidImage(where, f"{error}") from None


def _decode_data_url(url: str, where: str, max_mb: int) -> bytes:
    head, comma, text = url.partition(",")
    if not comma or not _BASE64.fullmatch(head.strip()):
        raise InvalidImage(where, "a data URL must start with, for example, data:image/png;base64,")
    if len(text) * 3 // 4 > max_mb << 20 and len(_SPACE.sub("", text)) * 3 // 4 > max_mb << 20:
        raise InvalidImage(
            where, f"the image is larger than {max_mb} MiB (IMAGE_MAX_MB). Send a smaller one."
        )
    text = _SPACE.sub("", text).rstrip("=")
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImage(where, "the data is not Base64. Encode it as Base64.") from None


def _check(data: bytes, where: str, max_megapixels: int) -> ImageInput:
    try:
        header = read_header(data)
    except ImageHeaderError as error:
        raise InvalidImage(where, f"{error}. Send a PNG, JPEG, GIF or WebP image.") from None
    if header.width * header.height > max_megapixels * _MEGAPIXEL:
        raise InvalidImage(
            where,
            f"the image has {header.width} x {header.height} pixels, which exceeds the limit of "
            f"{max_megapixels} megapixels (IMAGE_MAX_MEGAPIXELS). Send a smaller one.",
        )
    return ImageInput(data, *header, where)
