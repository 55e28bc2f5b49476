"""The catalog of models that can be pulled by name: models.toml and the user's catalogue.toml."""

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
Format = Literal["mlx", "gguf", "safetensors"]
FORMATS: Final[tuple[Format, ...]] = ("mlx", "gguf", "safetensors")

# The user's own catalog, in MODELS_DIR.
FILE: Final = "catalogue.toml"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", re.ASCII)

_REPOSITORY = r"^$|^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$"
# Memory besides the weights: a KV cache of some thousand tokens, libraries, buffers.
_OVERHEAD: Final = 2**30

Repository = Annotated[str, Meta(pattern=_REPOSITORY)]
Bytes = Annotated[int, Meta(gt=0)]


class Family(Struct, forbid_unknown_fields=True, frozen=True):
    """The shared properties of a model family.

    Args:
        template: the chat template.
        tools: the format of tool calls, empty if the family was not trained for them.
        reasoning: the markers of reasoning, empty if the family has none.
    """

    template: str
    tools: str = ""
    reasoning: str = ""


class ModelVariant(Struct, forbid_unknown_fields=True, frozen=True):
    """A model in one format.

    Args:
        size: approximate bytes to download.
        huggingface: the repository on Hugging Face, empty if none.
        modelscope: the repository on ModelScope, empty if none.
        pypi: a package with its version that contains the file, empty if none.
        file: for GGUF, the file name or pattern (`*` matches anything).
        projector: for GGUF, the file name or pattern of the vision projector.
    """

    size: Bytes
    huggingface: Repository = ""
    modelscope: Repository = ""
    pypi: str = ""
    file: str = ""
    projector: str = ""

    @property
    def memory(self) -> int:
        """Approximate bytes of memory with a short context."""
        return self.size * 11 // 10 + _OVERHEAD


class LibraryEntry(Struct, forbid_unknown_fields=True, frozen=True):
    """A model in the catalog.

    Args:
        about: a one-line description.
        kind: the main use.
        parameters: billions of parameters.
        licence: the SPDX identifier, or the name of the license.
        family: a key of the table `families`.
        context: the trained context length in tokens.
        active: billions of active parameters per token; 0 for a dense model.
        cache: bytes per token in a 16-bit KV cache; 0 if unknown or without a KV cache.
        mlx: the 4-bit MLX variant.
        gguf: the GGUF variant.
        safetensors: the original weights.
    """

    about: str
    kind: Kind
    parameters: Annotated[float, Meta(gt=0)]
    licence: str
    family: str
    context: Annotated[int, Meta(ge=128)]
    active: Annotated[float, Meta(ge=0)] = 0
    cache: Annotated[int, Meta(ge=0)] = 0
    mlx: ModelVariant | None = None
    gguf: ModelVariant | None = None
    safetensors: ModelVariant | None = None

    @property
    def offers(self) -> dict[Format, ModelVariant]:
        """The available variants by format."""
        variants = {"mlx": self.mlx, "gguf": self.gguf, "safetensors": self.safetensors}
        return {
            model_format: variant
            for model_format in FORMATS
            if (variant := variants[model_format]) is not None
        }


class ModelLibrary(Struct, forbid_unknown_fields=True, frozen=True):
    """A catalog file.

    Args:
        families: the model families by name.
        models: the models by name.
    """

    families: dict[str, Family] = {}
    models: dict[str, LibraryEntry] = {}

    def family(self, entry: LibraryEntry) -> Family:
        """The family of a model."""
        return self.families[entry.family]

    def find(self, name: str) -> tuple[str, LibraryEntry]:
        """Find a model by its name, case-insensitive.

        Returns:
            The name as the catalog spells it, and the model.

        Raises:
            SourceNotFound: the catalog has no such name; the message suggests similar ones.
        """
        folded = name.casefold()
        for known, entry in self.models.items():
            if known.casefold() == folded:
                return known, entry
        similar = difflib.get_close_matches(folded, self.models, 3, 0.4)
        hint = f" Did you mean {' or '.join(similar)}?" if similar else ""
        raise SourceNotFound(
            f"The catalog has no model '{name[:200]}'.{hint} `vllm-obtain list --all` lists the "
            "names. For other models use hf:owner/repository, modelscope:owner/repository, "
            "pypi:package==version or https://….",
            param="model",
        )


def load(models_dir: Path | None = None) -> ModelLibrary:
    """Load the built-in catalog and the user's catalogue.toml, whose entries take precedence.

    Args:
        models_dir: the folder of catalogue.toml; None loads the built-in catalog only.

    Raises:
        SettingsError: catalogue.toml is invalid.
    """
    text = resources.files(__package__).joinpath("models.toml").read_text("utf-8")
    builtin = parse(text, "models.toml")
    if models_dir is None:
        return builtin
    file = models_dir / FILE
    try:
        custom = file.read_text("utf-8") if file.is_file() else ""
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"Cannot read {file}: {error}. Fix its permissions or encoding (UTF-8)."
        ) from None
    return parse(custom, str(file), builtin) if custom else builtin


def parse(text: str, where: str, base: ModelLibrary | None = None) -> ModelLibrary:
    """Parse and validate a catalog.

    Args:
        text: TOML.
        where: the file name for error messages.
        base: the catalog to extend; entries of `text` take precedence.

    Raises:
        SettingsError: the text is not valid TOML or not a valid catalog.
    """
    base = base or ModelLibrary()
    try:
        library = msgspec.convert(tomllib.loads(text), ModelLibrary)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{where}: not valid TOML: {error}.") from None
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {error}.") from None
    folded = {name.casefold() for name in library.models}
    inherited = {
        name: entry for name, entry in base.models.items() if name.casefold() not in folded
    }
    merged = ModelLibrary({**base.families, **library.families}, {**inherited, **library.models})
    for name, entry in library.models.items():
        if problem := _problem(name, entry, merged.families):
            raise SettingsError(f"{where}: [models.{name}] {problem}.")
    return merged


def _problem(name: str, entry: LibraryEntry, families: Mapping[str, Any]) -> str | None:
    if not NAME.fullmatch(name):
        return "is not a valid name: use up to 128 letters, digits, '.', '_' and '-'"
    if entry.family not in families:
        return f"uses the undefined family {entry.family!r}: add [families.{entry.family}]"
    if not entry.offers:
        return "has no source: add [….gguf], [….mlx] or [….safetensors]"
    for model_format, variant in entry.offers.items():
        if not (variant.huggingface or variant.modelscope or variant.pypi):
            return f"{model_format} has no source: add huggingface, modelscope or pypi"
        if model_format == "gguf" and not (variant.file or variant.pypi):
            return "gguf has no file name: add file"
    return None
