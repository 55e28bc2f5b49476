"""Settings of single models, one table per model; `model_settings_file` reads them.

docs/models.md describes every key and models.toml.example shows them; tests compare the three.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from vllm_obtain.config.error_messages import one_of
from vllm_obtain.errors import SettingsError

CacheType = Literal["f16", "q8_0", "q4_0", "fp8"]


def _existing_path(value: object, info: ValidationInfo) -> object:
    """Resolve a path relative to the folder of the file, and require that it exists."""
    if not isinstance(value, str) or not value:
        raise ValueError("must be a path")
    try:
        path = (info.context or {}).get("folder", Path()) / Path(value).expanduser()
    except RuntimeError:
        raise ValueError("must be a path of an existing user") from None
    if not path.exists():
        raise ValueError(f"must be an existing path ({path} does not exist)")
    return path


def _engine(value: object) -> object:
    return value.strip().lower().replace(".", "_") if isinstance(value, str) else value


Name = Annotated[str, Field(min_length=1, max_length=200)]
ExistingPath = Annotated[Path, BeforeValidator(_existing_path)]
Gpu = Annotated[int, Field(ge=0, le=1023)]


class SamplingSettings(BaseModel):
    """Defaults for sampling parameters that a request does not set. Ranges as in requests."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=2**31 - 1)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    max_tokens: int | None = Field(None, ge=1, le=2**31 - 1)

    @cached_property
    def values(self) -> dict[str, Any]:
        """The parameters that are set, by name."""
        return self.model_dump(exclude_none=True)


class ModelSettings(BaseModel):
    """One table of the file: the settings of one model."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    aliases: list[Name] = []
    context: int | None = Field(None, ge=16, le=2**31 - 1)
    chat_template: ExistingPath | None = None
    sampling: SamplingSettings = SamplingSettings.model_validate({})
    engine: Annotated[str, BeforeValidator(_engine)] | None = None
    preload: bool = False
    pin: bool = False
    max_concurrent_requests: int | None = Field(None, ge=1, le=100_000)
    max_queued_requests: int | None = Field(None, ge=0, le=100_000)
    ttl: float = Field(0, ge=0, le=31_536_000)
    kv_cache_type: CacheType | None = None
    draft_model: ExistingPath | None = None
    ngram: int | None = Field(None, ge=1, le=64)
    lora: ExistingPath | None = None
    base: Name | None = None
    gpu: Annotated[list[Gpu], Field(min_length=1)] | Gpu | None = None

    @property
    def gpus(self) -> tuple[int, ...]:
        """GPUs that the engine of this model may use; empty for all."""
        if self.gpu is None:
            return ()
        return (self.gpu,) if isinstance(self.gpu, int) else tuple(self.gpu)

    @cached_property
    def is_speculative(self) -> bool:
        """Whether speculative decoding is configured."""
        return self.ngram is not None or self.draft_model is not None

    def contradictions(self) -> Iterator[str]:
        """Yield the conflicts between keys of this table."""
        if self.pin and self.ttl:
            yield "has both pin and ttl, but a pinned model is never unloaded. Remove one of them"
        if self.draft_model and self.ngram:
            yield "has both draft_model and ngram. Remove one of them"
        if (self.lora is None) != (self.base is None):
            yield "must have both lora (the LoRA adapter) and base (its base model), or neither"


_NONE = ModelSettings.model_validate({})


@dataclass(frozen=True)
class ModelTable:
    """Settings of all models.

    Args:
        file: the file that was read, or None.
        text: content of the file; empty if it does not exist.
        tables: settings by model name, spelled as in the file.
    """

    file: Path | None = None
    text: str = ""
    tables: Mapping[str, ModelSettings] = field(default_factory=dict)

    def of(self, model: str) -> ModelSettings:
        """Return the settings of a model, the defaults if it has none. Ignores case."""
        if not self.tables:
            return _NONE
        exact = self.tables.get(model)
        if exact is not None:
            return exact
        folded = model.casefold()
        matches = (table for name, table in self.tables.items() if name.casefold() == folded)
        return next(matches, _NONE)

    @property
    def aliases(self) -> dict[str, str]:
        """Model name by alias."""
        return {alias: name for name, table in self.tables.items() for alias in table.aliases}

    def meant(self, name: str) -> str:
        """Resolve an alias; other names are returned unchanged."""
        folded = name.casefold()
        return next((m for alias, m in self.aliases.items() if alias.casefold() == folded), name)

    @property
    def preloaded(self) -> list[str]:
        """Models that are loaded at startup."""
        return [name for name, table in self.tables.items() if table.preload]

    @property
    def pinned(self) -> list[str]:
        """Models that are never evicted."""
        return [name for name, table in self.tables.items() if table.pin]

    def message(self, table: str, problem: str) -> str:
        """Prefix the description of a problem with the file and the table."""
        return f"MODEL_SETTINGS={self.file}: [{table}] {problem}."

    def check(self, engines: Sequence[str], max_models: int, default_model: str) -> None:
        """Check the tables against other settings.

        Args:
            engines: available engines, including EXTRA_ENGINES.
            max_models: MAX_CONCURRENT_MODELS.
            default_model: DEFAULT_MODEL, which is loaded at startup too.

        Raises:
            SettingsError: the tables contradict other settings.
        """
        for name, table in self.tables.items():
            if table.engine is not None and table.engine not in engines:
                problem = f"engine must be {one_of(engines)}, got {table.engine!r}"
                raise SettingsError(self.message(name, problem))
        default = self.meant(default_model) if self.preloaded else ""
        loaded = {name.casefold(): name for name in [default, *self.preloaded] if name}
        for key, names in {"preload": [*loaded.values()], "pin": self.pinned}.items():
            if len(names) > max_models:
                raise SettingsError(
                    self.message(
                        names[-1],
                        f"{key} exceeds MAX_CONCURRENT_MODELS={max_models}: {', '.join(names)} "
                        f"would be loaded together. Raise MAX_CONCURRENT_MODELS or remove {key}",
                    )
                )
