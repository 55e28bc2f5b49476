"""The request to an engine: prompt, sampling parameters, grammar and images."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

from vllm_obtain.protocol.sampling_params import SamplingParams

# Stands for an image in a prompt.
MARK = "<|VOimage|>"
# Upper bound of an image's tokens, for models that do not state it.
_IMAGE_TOKENS = 4096
# Upper bound of the special tokens that surround a prompt.
_AROUND = 8


@dataclass(frozen=True, slots=True)
class ImageInput:
    """An image as an encoded file.

    Args:
        data: content of the file.
        kind: media type such as `image/png`, from its first bytes.
        width: width in pixels, from its header.
        height: height in pixels, from its header.
        where: the request field that has it, for errors.
    """

    data: bytes
    kind: str
    width: int
    height: int
    where: str

    @property
    def base64(self) -> str:
        """The file in base64."""
        return b64encode(self.data).decode()


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A request in a form that every adapter can translate.

    Args:
        prompt: a text or token ids. The text of a chat contains all its special tokens.
        params: how to generate.
        is_chat: whether the prompt is a chat.
        bos: BOS token at the beginning of a chat's text that a GGUF engine also adds.
        grammar: grammar that the completion must match (see `chat/grammar.py`), if any.
        images: the images that MARK stands for in a chat's text, in order.
        placeholder: what the model's template writes for an image, None if it writes nothing.
        image_tokens: tokens per image, None if unknown before it is processed.
    """

    prompt: str | list[int] | list[int | str]
    params: SamplingParams
    is_chat: bool = False
    bos: str = ""
    grammar: str | None = None
    images: tuple[ImageInput, ...] = ()
    placeholder: str | None = None
    image_tokens: int | None = None

    @property
    def only_image(self) -> str | None:
        """The field of the image if there is exactly one, else None."""
        return self.images[0].where if len(self.images) == 1 else None

    @property
    def length(self) -> int:
        """An upper bound of the prompt's tokens: a tokenizer makes at most one per byte."""
        prompt = self.prompt
        if not isinstance(prompt, str):
            return len(prompt) + _AROUND
        # ASCII is the most frequent case and needs no copy.
        text = len(prompt) if prompt.isascii() else len(prompt.encode())
        return text + _AROUND + len(self.images) * (self.image_tokens or _IMAGE_TOKENS)
