"""What names a request where its text must not be kept: a hash of all that it asks."""

from __future__ import annotations

import hashlib

import msgspec

from vllm_obtain.catalogue import Model
from vllm_obtain.protocol.task import Task

_canonical = msgspec.json.Encoder(order="sorted").encode


def fingerprint(task: Task, model: Model) -> bytes:
    """Fingerprint what an engine is asked, whoever asks.

    Args:
        task: what is asked; fields that only label or deliver are left out, and images count by
            what they are, since a URL may have another one tomorrow.
        model: its revision counts: a changed file is another model.
    """
    request = task.request
    asked = {
        name: value
        for name in request.__struct_fields__
        if name not in request.LABELS and (value := getattr(request, name)) is not None
    }
    kind = f"{type(request).__name__}\0{model.name}\0{model.revision}\0".encode()
    digest = hashlib.blake2b(kind + _canonical(asked), digest_size=24)
    for image in task.images:
        digest.update(hashlib.blake2b(image.data, digest_size=24).digest())
    return digest.digest()
