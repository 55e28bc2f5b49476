"""From what a request says of images to their files, held to the owner's limits."""

from __future__ import annotations

import binascii
import re
import time
from base64 import b64decode
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from vllm_obtain.errors import InvalidRequest
from vllm_obtain.images.fetch import Fetch, FetchError
from vllm_obtain.images.header import HeaderError, read_header
from vllm_obtain.protocol.conversation import ImagePart
from vllm_obtain.protocol.task import Image
from vllm_obtain.settings import Settings

Placed = Sequence[tuple[ImagePart, str]]
Attach = Callable[[Fetch], AbstractContextManager[None]]

_BASE64 = re.compile(r"data:[^,]*;base64", re.IGNORECASE)
_SPACE = re.compile(r"\s+")
_MEGAPIXEL = 1_000_000


class InvalidImage(InvalidRequest):
    """An image that cannot be had, or is beyond a limit.

    Args:
        where: the field that has it.
        why: what is wrong and what to do, as sentences.
    """

    code = "invalid_image"

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"Invalid '{where}': {why}", param=where)


def load(parts: Placed, settings: Settings, attach: Attach) -> list[Image]:
    """Get the images of a request.

    Args:
        parts: each with the field that has it.
        settings: the owner's, with the limits.
        attach: has a fetch interrupted when the client goes.

    Raises:
        InvalidImage: one cannot be had, or is beyond a limit; it names the field.
        ClientGone: the client went.
    """
    most = settings.image_max_count
    if len(parts) > most:
        raise InvalidImage(
            parts[most][1],
            f"the request has {len(parts)} images, and {most} are allowed (IMAGE_MAX_COUNT). Send "
            "fewer.",
        )
    deadline = time.monotonic() + settings.image_fetch_timeout
    fetch = Fetch(deadline, settings.image_max_mb << 20, settings.image_private_addresses)
    # A conversation shows the same image in each of its turns.
    fetched: dict[str, bytes] = {}
    images = []
    for part, where in parts:
        url = part.image_url.url
        if url[:5].lower() == "data:":
            data = _decoded(url, where, settings.image_max_mb)
        else:
            data = fetched.get(url) or _fetched(url, where, settings, fetch, attach)
            fetched[url] = data
        images.append(_checked(data, where, settings.image_max_megapixels))
    return images


def _fetched(url: str, where: str, settings: Settings, fetch: Fetch, attach: Attach) -> bytes:
    if not settings.image_urls:
        raise InvalidImage(
            where, "this service fetches no images (IMAGE_URLS=false). Send a data URL."
        )
    with attach(fetch):
        try:
            return fetch.get(url)
        except FetchError as error:
            raise InvalidImage(where, f"{error}") from None


def _decoded(url: str, where: str, most_mb: int) -> bytes:
    head, comma, text = url.partition(",")
    if not comma or not _BASE64.fullmatch(head.strip()):
        raise InvalidImage(where, "a data URL has to begin like data:image/png;base64,")
    if len(text) * 3 // 4 > most_mb << 20 and len(_SPACE.sub("", text)) * 3 // 4 > most_mb << 20:
        raise InvalidImage(
            where, f"it is larger than {most_mb} MiB (IMAGE_MAX_MB). Send a smaller one."
        )
    text = _SPACE.sub("", text).rstrip("=")
    try:
        return b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidImage(where, "its data is not Base64.") from None


def _checked(data: bytes, where: str, most: int) -> Image:
    try:
        header = read_header(data)
    except HeaderError as error:
        raise InvalidImage(where, f"{error}.") from None
    if header.width * header.height > most * _MEGAPIXEL:
        raise InvalidImage(
            where,
            f"it has {header.width} x {header.height} pixels, and {most} million are allowed "
            "(IMAGE_MAX_MEGAPIXELS). Send a smaller one.",
        )
    return Image(data, *header, where)
