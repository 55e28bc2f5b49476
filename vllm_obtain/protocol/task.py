"""What an engine is asked: a prompt, how to draw, and what the answer has to look like."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

from vllm_obtain.protocol.requests import ChatRequest, InferenceRequest

# Stands for an image in a prompt.
MARK = "<|VOimage|>"
# What an image may take at most, of models that do not say.
_IMAGE_TOKENS = 4096
# What a prompt's special tokens may add to the tokens of its text.
_AROUND = 8


@dataclass(frozen=True, slots=True)
class Image:
    """An image, as its file is.

    Args:
        data: the file.
        kind: `image/png` and the like, as its first bytes tell.
        width: in pixels, as its header tells.
        height: likewise.
        where: the field of the request that has it, for errors.
    """

    data: bytes
    kind: str
    width: int
    height: int
    where: str

    @property
    def base64(self) -> str:
        """The file as JSON can hold it."""
        return b64encode(self.data).decode()


@dataclass(frozen=True, slots=True)
class Task:
    """A request made ready for any engine.

    Args:
        request: how to draw and when to end.
        prompt: a text or token ids. A conversation's text has all its special tokens in it.
        bos: the token at the beginning of a conversation's text that a GGUF engine puts there too.
        grammar: what the answer must look like (see `chat/grammar.py`), if anything.
        images: those that MARK stands for in a conversation's text, in that order.
        placeholder: what the model's own template writes for an image, None if it does not.
        image_tokens: what an image takes, None if that is not known before it is read.
        trail: marks of who asks and what (see `apart.py`); empty where nobody is kept apart.
    """

    request: InferenceRequest
    prompt: str | list[int] | list[int | str]
    bos: str = ""
    grammar: str | None = None
    images: tuple[Image, ...] = ()
    placeholder: str | None = None
    image_tokens: int | None = None
    trail: tuple[bytes, ...] = ()

    @property
    def is_chat(self) -> bool:
        """Whether the prompt is a conversation."""
        return isinstance(self.request, ChatRequest)

    @property
    def only_image(self) -> str | None:
        """The field that has the image, when there is just one."""
        return self.images[0].where if len(self.images) == 1 else None

    @property
    def length(self) -> int:
        """A bound of the prompt's tokens: a tokenizer never makes more than there are bytes."""
        prompt = self.prompt
        if not isinstance(prompt, str):
            return len(prompt) + _AROUND
        # ASCII is by far the most common and needs no copy.
        text = len(prompt) if prompt.isascii() else len(prompt.encode())
        return text + _AROUND + len(self.images) * (self.image_tokens or _IMAGE_TOKENS)
