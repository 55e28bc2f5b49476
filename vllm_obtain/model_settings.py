"""Settings of single models, a table per model; `model_file` reads them.

docs/models.md describes every key and models.toml.example shows them; tests hold the three
together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from vllm_obtain.errors import SettingsError

CacheType = Literal["f16", "q8_0", "q4_0", "fp8"]


def _beside(value: object, info: ValidationInfo) -> object:
    """Take a path as seen from the file's folder; what it names has to be there."""
    if not isinstance(value, str) or not value:
        raise ValueError("Input should be a path")
    try:
        path = (info.context or {}).get("folder", Path()) / Path(value).expanduser()
    except RuntimeError:
        raise ValueError("Input should be a path; there is no such user") from None
    if not path.exists():
        raise ValueError(f"Input should be a path that exists; there is no {path}")
    return path


def _engine(value: object) -> object:
    return value.strip().lower().replace(".", "_") if isinstance(value, str) else value


Name = Annotated[str, Field(min_length=1, max_length=200)]
Existing = Annotated[Path, BeforeValidator(_beside)]
Gpu = Annotated[int, Field(ge=0, le=1023)]


class SamplingSettings(BaseModel):
    """What stands in for sampling values that a request leaves out; ranges as in requests."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)

    @property
    def given(self) -> dict[str, Any]:
        """The values that are there, by name."""
        return self.model_dump(exclude_none=True)


class ModelSettings(BaseModel):
    """One table of the file: everything that can be set for one model."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    aliases: list[Name] = []
    context: int | None = Field(None, ge=16, le=2**31 - 1)
    chat_template: Existing | None = None
    sampling: SamplingSettings = SamplingSettings.model_validate({})
    engine: Annotated[str, BeforeValidator(_engine)] | None = None
    preload: bool = False
    pin: bool = False
    max_concurrent_requests: int | None = Field(None, ge=1, le=100_000)
    max_queued_requests: int | None = Field(None, ge=0, le=100_000)
    ttl: float = Field(0, ge=0, le=31_536_000)
    kv_cache_type: CacheType | None = None
    draft_model: Existing | None = None
    ngram: int | None = Field(None, ge=1, le=64)
    lora: Existing | None = None
    base: Name | None = None
    gpu: Annotated[list[Gpu], Field(min_length=1)] | Gpu | None = None

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPUs that its engine may see, empty for all."""
        if self.gpu is None:
            return ()
        return (self.gpu,) if isinstance(self.gpu, int) else tuple(self.gpu)

    @property
    def guesses_ahead(self) -> bool:
        """Whether tokens are guessed before the model looks at them."""
        return self.ngram is not None or self.draft_model is not None

    def contradictions(self) -> Iterator[str]:
        """Say which keys do not go together."""
        if self.pin and self.ttl:
            yield "has pin and ttl: a pinned model stays loaded. Leave one of them out"
        if self.draft_model and self.ngram:
            yield "has draft_model and ngram: leave one of them out"
        if (self.lora is None) != (self.base is None):
            yield "needs both lora (the adapter) and base (the model it is for), or neither"


_NONE = ModelSettings.model_validate({})


@dataclass(frozen=True)
class ModelTable:
    """The settings of all models.

    Args:
        file: where they were read, None when nobody looked.
        text: what was in there, empty when there is no such file.
        tables: the settings by the model's name, as the owner wrote it.
    """

    file: Path | None = None
    text: str = ""
    tables: Mapping[str, ModelSettings] = field(default_factory=dict)

    def of(self, model: str) -> ModelSettings:
        """The settings of a model by its name, capitals or not; the defaults if it has none."""
        if not self.tables:
            return _NONE
        found = self.tables.get(model)
        if found is not None:
            return found
        folded = model.casefold()
        matches = (each for name, each in self.tables.items() if name.casefold() == folded)
        return next(matches, _NONE)

    @property
    def aliases(self) -> dict[str, str]:
        """Every alias and the model that it stands for."""
        return {alias: name for name, each in self.tables.items() for alias in each.aliases}

    def meant(self, name: str) -> str:
        """The model that a name stands for, if it is an alias; else the name itself."""
        folded = name.casefold()
        return next((m for alias, m in self.aliases.items() if alias.casefold() == folded), name)

    @property
    def preloaded(self) -> list[str]:
        """The models that are loaded at the start."""
        return [name for name, each in self.tables.items() if each.preload]

    @property
    def pinned(self) -> list[str]:
        """The models that never make room for others."""
        return [name for name, each in self.tables.items() if each.pin]

    def said(self, table: str, what: str) -> str:
        """Begin a sentence about a table, so that the owner finds it."""
        return f"MODEL_SETTINGS={self.file}: [{table}] {what}."

    def check(self, engines: Sequence[str], places: int, default_model: str) -> None:
        """Hold the tables to other settings.

        Args:
            engines: those that there are, also of EXTRA_ENGINES.
            places: MAX_CONCURRENT_MODELS.
            default_model: DEFAULT_MODEL, which is loaded at the start too.

        Raises:
            SettingsError: they do not go together.
        """
        for name, table in self.tables.items():
            if table.engine is not None and table.engine not in engines:
                allowed = ", ".join(engines)
                what = f"engine = {table.engine!r} is not allowed (allowed: {allowed})"
                raise SettingsError(self.said(name, what))
        also = self.meant(default_model) if self.preloaded else ""
        loaded = {name.casefold(): name for name in [also, *self.preloaded] if name}
        for key, names in {"preload": [*loaded.values()], "pin": self.pinned}.items():
            if len(names) > places:
                raise SettingsError(
                    self.said(
                        names[-1],
                        f"{key} is one too many: {', '.join(names)} would be loaded at once, and "
                        f"MAX_CONCURRENT_MODELS={places}. Raise it, or take {key} out",
                    )
                )
