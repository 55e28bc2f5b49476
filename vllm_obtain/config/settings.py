"""Settings: typed, read once from environment variables, frozen.

`.env.example` documents every variable; a test compares the two.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    WrapValidator,
)

from vllm_obtain.config import model_settings_file, validators
from vllm_obtain.config.error_messages import error_message, one_of
from vllm_obtain.config.model_settings import ModelTable
from vllm_obtain.config.sources import gather
from vllm_obtain.errors import SettingsError

Engine = Literal["auto", "mlx", "vllm", "llama_cpp"]
Device = Literal["auto", "mps", "cuda", "cpu"]
Executor = Literal["mp", "ray"]
ModelSource = Literal["auto", "huggingface", "modelscope"]
Strictness = Literal["contract", "strict", "lenient"]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]

# Content of the file MODEL_SETTINGS for child processes, so that a worker started later does not
# read a file that has changed since.
FROZEN = "VLLM_OBTAIN_MODEL_SETTINGS"

# Set for child processes: the environment has all settings, so they read no file.
COMPLETE = "VLLM_OBTAIN_SETTINGS"

# Fields that are neither passed to child processes nor shown in messages.
SECRETS = frozenset({"api_keys"})

AbsolutePath = Annotated[Path, BeforeValidator(validators.path)]


class Settings(BaseModel):
    """All settings. The name of a field in capitals is its environment variable."""

    model_config = ConfigDict(frozen=True)

    host: str = "127.0.0.1"
    port: int = Field(8001, ge=1, le=65535)
    debug: bool = False
    workers: Annotated[int, Field(ge=1, le=256), WrapValidator(validators.or_auto)] = 1
    worker_class: Annotated[Literal["gevent"], BeforeValidator(validators.lower)] = "gevent"
    worker_connections: int = Field(1000, ge=16, le=100_000)

    api_keys: str = Field("", repr=False)
    keys_file: AbsolutePath = Path("keys.json").absolute()
    config_key_file: Annotated[str, AfterValidator(validators.absolute)] = ""
    tls_certfile: Annotated[str, AfterValidator(validators.absolute)] = ""
    tls_keyfile: Annotated[str, AfterValidator(validators.absolute)] = ""
    requests_per_minute: int = Field(0, ge=0, le=10_000_000)
    tokens_per_minute: int = Field(0, ge=0, le=1_000_000_000)
    public_docs: bool = False
    public_metrics: bool = False
    allowed_hosts: Annotated[str, AfterValidator(validators.hosts)] = ""
    cors_origins: Annotated[str, AfterValidator(validators.origins)] = ""
    trusted_proxies: Annotated[str, AfterValidator(validators.networks)] = ""
    url_prefix: Annotated[str, AfterValidator(validators.prefix)] = ""

    inference_engine: Annotated[str, BeforeValidator(validators.named_engine)] = "auto"
    engine_failover: bool = True
    extra_engines: Annotated[str, AfterValidator(validators.plugins)] = ""
    device_type: Annotated[Device, BeforeValidator(validators.lower)] = "auto"
    default_model: str = ""
    model_engines: Annotated[str, AfterValidator(validators.pins)] = ""
    models_dir: AbsolutePath = Path("models").absolute()
    model_settings: AbsolutePath = Path("models.toml").absolute()
    model_source: Annotated[ModelSource, BeforeValidator(validators.lower)] = "auto"
    hf_endpoint: Annotated[str, AfterValidator(validators.endpoint)] = "https://huggingface.co"
    modelscope_endpoint: Annotated[str, AfterValidator(validators.endpoint)] = (
        "https://modelscope.cn"
    )
    max_concurrent_models: int = Field(1, ge=1, le=64)
    memory_limit: Annotated[float, BeforeValidator(validators.memory)] = 0.9
    mlx_memory_fraction: float = Field(0.8, gt=0, le=0.95)

    vllm_python: str = ""
    vllm_gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    vllm_max_model_len: int = Field(0, ge=0, le=2**31 - 1)
    vllm_tensor_parallel_size: int = Field(1, ge=1, le=1024)
    vllm_pipeline_parallel_size: int = Field(1, ge=1, le=1024)
    vllm_distributed_executor: Annotated[Executor, BeforeValidator(validators.lower)] = "mp"
    vllm_extra_args: Annotated[str, AfterValidator(validators.vllm_arguments)] = ""

    log_level: Annotated[LogLevel, BeforeValidator(validators.upper)] = "INFO"
    enable_log_file: bool = True
    log_dir: AbsolutePath = Path("logs").absolute()
    log_retention_days: int = Field(30, ge=1, le=3650)
    log_prompts: bool = False

    request_timeout: float = Field(300, gt=0, le=86_400)
    load_timeout: float = Field(600, gt=0, le=86_400)
    stall_seconds: float = Field(120, ge=0, le=86_400)
    heartbeat_seconds: float = Field(15, ge=0, le=3600)
    quarantine_seconds: float = Field(3600, ge=0, le=2_592_000)
    grace_period: float = Field(30, ge=0, le=86_400)
    stream_pulse: float = Field(10, ge=0, le=3600)
    stream_pulse_chunks: bool = False
    strict_parameters: Annotated[Strictness, BeforeValidator(validators.strictness)] = "contract"
    max_concurrent_requests: int = Field(100, ge=1, le=100_000)
    max_queued_requests: int = Field(0, ge=0, le=100_000)
    max_body_mb: int = Field(64, ge=1, le=1024)
    header_timeout: int = Field(5, ge=1, le=3600)
    body_memory_mb: int = Field(512, ge=2, le=1_048_576)
    body_timeout: float = Field(30, gt=0, le=3600)
    send_timeout: float = Field(60, gt=0, le=3600)
    image_urls: bool = True
    image_private_addresses: bool = False
    image_fetch_timeout: float = Field(15, gt=0, le=3600)
    image_max_count: int = Field(16, ge=1, le=1000)
    image_max_mb: int = Field(10, ge=1, le=1024)
    image_max_megapixels: int = Field(40, ge=1, le=1000)
    enable_caching: bool = True
    cache_size: int = Field(1000, ge=1, le=1_000_000)
    shared_prefix_cache: bool = True
    core_files: bool = False
    responses_store_mb: int = Field(64, ge=0, le=65_536)

    _models: ModelTable = PrivateAttr(default_factory=ModelTable)

    @classmethod
    def load(cls, environ: Mapping[str, str], dotenv: Path | None = None) -> Settings:
        """Read the settings.

        Args:
            environ: environment variables; they take precedence over the file.
            dotenv: path of a `.env` file; an encrypted file beside it is read too. Neither needs
                to exist.

        Raises:
            SettingsError: a value is invalid; the message names the variable and the valid values.
        """
        merged: Mapping[str, str] = environ
        if COMPLETE not in environ:
            merged = gather(environ, dotenv, [name.upper() for name in cls.model_fields])
        values = {
            name: merged[name.upper()].strip()
            for name in cls.model_fields
            if merged.get(name.upper(), "").strip()
        }
        try:
            settings = cls.model_validate(values)
        except ValidationError as error:
            raise SettingsError(_explain(error, values)) from None
        settings._models = model_settings_file.read(settings.model_settings, merged.get(FROZEN))
        settings._check_engine()
        return settings

    @property
    def models(self) -> ModelTable:
        """Settings of single models, from the file MODEL_SETTINGS."""
        return self._models

    @property
    def tokens(self) -> list[str]:
        """API_KEYS as a list."""
        return validators.items(self.api_keys)

    @property
    def host_names(self) -> list[str]:
        """ALLOWED_HOSTS as a list."""
        return validators.items(self.allowed_hosts)

    @property
    def page_origins(self) -> list[str]:
        """CORS_ORIGINS as a list."""
        return validators.items(self.cors_origins)

    @property
    def proxies(self) -> list[str]:
        """TRUSTED_PROXIES as a list."""
        return validators.items(self.trusted_proxies)

    @property
    def engine_plugins(self) -> dict[str, str]:
        """EXTRA_ENGINES as a mapping of engine name to `module:Class`."""
        pairs = (item.partition("=") for item in self.extra_engines.split(",") if item.strip())
        return {str(validators.named_engine(name)): target.strip() for name, _, target in pairs}

    def environ(self) -> dict[str, str]:
        """Return all settings but the secret ones as environment variables for a child process."""
        variables = {name.upper(): str(value) for name, value in self if name not in SECRETS}
        variables |= {FROZEN: self.models.text, COMPLETE: "1"}
        return variables | ({"WORKERS": "auto"} if self.workers == validators.AUTO else {})

    @property
    def engine_pins(self) -> dict[str, str]:
        """MODEL_ENGINES as a mapping of model name to engine."""
        # A model name may contain `=`, an engine name cannot.
        pairs = (item.rpartition("=") for item in self.model_engines.split(",") if item.strip())
        return {name.strip(): str(validators.named_engine(engine)) for name, _, engine in pairs}

    def _check_engine(self) -> None:
        engines = ["mlx", "vllm", "llama_cpp", *self.engine_plugins]
        for name, engine in self.engine_pins.items():
            if engine not in engines:
                raise SettingsError(
                    f"MODEL_ENGINES must assign {one_of(engines)} to {name!r}, "
                    f"got {self.model_engines!r}."
                )
        self._models.check(engines, self.max_concurrent_models, self.default_model)
        allowed = ["auto", *engines]
        if self.inference_engine not in allowed:
            raise SettingsError(
                f"INFERENCE_ENGINE must be {one_of(allowed)}, got {self.inference_engine!r}."
            )


# The settings that `freeze` set. Processes that gunicorn's master forks later inherit them.
_frozen: Settings | None = None


def freeze(settings: Settings) -> None:
    """Make `load_settings` return these settings in this process and in those that it forks.

    A worker that starts weeks after the service must not read files that have changed since.
    """
    global _frozen
    _frozen = settings


def is_frozen() -> bool:
    """Whether this process uses the settings of a service that has already started."""
    return _frozen is not None


def load_settings() -> Settings:
    """Return the frozen settings, or read them: environment variables, then `.env`."""
    return _frozen or Settings.load(os.environ, Path(".env"))


def _explain(error: ValidationError, values: Mapping[str, str]) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0])
        message = error_message(problem, Settings.model_fields[name])
        value = "..." if name in SECRETS else values.get(name, "")
        lines.append(f"{name.upper()} {message}, got {value!r}.")
    return "\n".join(lines)
