from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from vllm_obtain.config.settings import Settings, load_settings
from vllm_obtain.errors import SettingsError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / ".env.example"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PORT", "0", "an integer between 1 and 65535"),
        ("PORT", "65536", "an integer between 1 and 65535"),
        ("PORT", "http", "an integer between 1 and 65535"),
        ("PORT", "1.5", "an integer between 1 and 65535"),
        ("DEBUG", "maybe", "true or false"),
        ("WORKERS", "0", "an integer between 1 and 256, or auto"),
        ("WORKERS", "257", "an integer between 1 and 256, or auto"),
        ("WORKER_CLASS", "sync", "gevent"),
        ("WORKER_CONNECTIONS", "15", "an integer between 16 and 100000"),
        ("INFERENCE_ENGINE", "tpu", "auto, mlx, vllm or llama_cpp"),
        ("EXTRA_ENGINES", "fake", "name=module:Class"),
        ("EXTRA_ENGINES", "fake=module", "name=module:Class"),
        ("EXTRA_ENGINES", "=module:Class", "name=module:Class"),
        ("EXTRA_ENGINES", "a=b:c,d", "name=module:Class"),
        ("MODEL_ENGINES", "a", "model=engine"),
        ("MODEL_ENGINES", "a=mlx,=vllm", "model=engine"),
        ("MODEL_ENGINES", "a=tpu", "mlx, vllm or llama_cpp to 'a'"),
        ("MODEL_SOURCE", "both", "auto, huggingface or modelscope"),
        ("HF_ENDPOINT", "hf-mirror.com", "a URL such as https://hf-mirror.com"),
        ("MODELSCOPE_ENDPOINT", "x", "a URL such as https://hf-mirror.com"),
        ("DEVICE_TYPE", "tpu", "auto, mps, cuda or cpu"),
        ("KEYS_FILE", "~no-such-user-here/keys.json", "a path"),
        ("PUBLIC_DOCS", "x", "true or false"),
        ("PUBLIC_METRICS", "x", "true or false"),
        ("CONFIG_KEY_FILE", "~no-such-user-here/key", "a path"),
        ("TLS_CERTFILE", "~no-such-user-here/cert.pem", "a path"),
        ("TLS_KEYFILE", "~no-such-user-here/key.pem", "a path"),
        ("REQUESTS_PER_MINUTE", "-1", "between 0 and "),
        ("TOKENS_PER_MINUTE", "many", "an integer between 0 and 1000000000"),
        ("ALLOWED_HOSTS", "http://x.example", "names such as"),
        ("CORS_ORIGINS", "x.example", "origins such as"),
        ("CORS_ORIGINS", "https://x.example/", "origins such as"),
        ("TRUSTED_PROXIES", "nginx", "addresses or networks"),
        ("URL_PREFIX", "llm", "a URL path such as /llm"),
        ("MODELS_DIR", "~no-such-user-here/models", "a path"),
        ("MODEL_SETTINGS", "~no-such-user-here/models.toml", "a path"),
        ("LOG_DIR", "~no-such-user-here/logs", "a path"),
        ("MAX_CONCURRENT_MODELS", "0", "between 1 and "),
        ("MLX_MEMORY_FRACTION", "0", "greater than 0"),
        ("MLX_MEMORY_FRACTION", "0.96", "at most 0.95"),
        ("MLX_MEMORY_FRACTION", "nan", "at most 0.95"),
        ("VLLM_GPU_MEMORY_UTILIZATION", "0", "greater than 0"),
        ("VLLM_MAX_MODEL_LEN", "-1", "between 0 and "),
        ("VLLM_TENSOR_PARALLEL_SIZE", "0", "between 1 and "),
        ("VLLM_PIPELINE_PARALLEL_SIZE", "0", "between 1 and "),
        ("VLLM_DISTRIBUTED_EXECUTOR", "x", "mp or ray"),
        ("VLLM_EXTRA_ARGS", "--uds x", "contain --uds (set PORT instead)"),
        ("LOG_LEVEL", "loud", "DEBUG, INFO, WARNING or ERROR"),
        ("ENABLE_LOG_FILE", "2", "true or false"),
        ("ENGINE_FAILOVER", "perhaps", "true or false"),
        ("LOG_RETENTION_DAYS", "0", "between 1 and "),
        ("REQUEST_TIMEOUT", "0", "greater than 0"),
        ("REQUEST_TIMEOUT", "inf", "at most 86400"),
        ("LOAD_TIMEOUT", "-1", "greater than 0"),
        ("STALL_SECONDS", "-1", "between 0 and "),
        ("HEARTBEAT_SECONDS", "-1", "between 0 and "),
        ("QUARANTINE_SECONDS", "-1", "between 0 and "),
        ("GRACE_PERIOD", "-1", "between 0 and "),
        ("MEMORY_LIMIT", "1.5", "a share greater than 0 and at most 1, or at least 1M"),
        ("MEMORY_LIMIT", "much", "bytes such as 24G"),
        ("STREAM_PULSE", "-1", "between 0 and "),
        ("MAX_CONCURRENT_REQUESTS", "0", "between 1 and "),
        ("MAX_BODY_MB", "1025", "between 1 and 1024"),
        ("HEADER_TIMEOUT", "0", "between 1 and "),
        ("BODY_MEMORY_MB", "1", "between 2 and "),
        ("BODY_TIMEOUT", "0", "greater than 0"),
        ("SEND_TIMEOUT", "0", "greater than 0"),
        ("MAX_QUEUED_REQUESTS", "-1", "between 0 and "),
        ("ENABLE_CACHING", "x", "true or false"),
        ("STREAM_PULSE_CHUNKS", "x", "true or false"),
        ("STRICT_PARAMETERS", "x", "contract, strict"),
        ("SHARED_PREFIX_CACHE", "x", "true or false"),
        ("CORE_FILES", "x", "true or false"),
        ("LOG_PROMPTS", "x", "true or false"),
        ("IMAGE_URLS", "x", "true or false"),
        ("IMAGE_PRIVATE_ADDRESSES", "x", "true or false"),
        ("IMAGE_FETCH_TIMEOUT", "0", "greater than 0"),
        ("IMAGE_MAX_COUNT", "0", "between 1 and "),
        ("IMAGE_MAX_MB", "1025", "between 1 and 1024"),
        ("IMAGE_MAX_MEGAPIXELS", "0", "between 1 and "),
        ("CACHE_SIZE", "0", "between 1 and "),
        ("RESPONSES_STORE_MB", "-1", "between 0 and "),
    ],
)
def test_an_invalid_value_names_its_variable_and_the_valid_values(
    name: str, value: str, allowed: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({name: value})
    assert str(caught.value).startswith(f"{name} must ")
    assert str(caught.value).endswith(f", got '{value}'.")
    assert allowed in str(caught.value)


def test_every_restricted_setting_is_covered_above() -> None:
    (marks,) = test_an_invalid_value_names_its_variable_and_the_valid_values.pytestmark
    covered = {name for name, *_ in marks.args[1]}
    unrestricted = {"API_KEYS", "HOST", "DEFAULT_MODEL", "VLLM_PYTHON"}
    assert covered | unrestricted == {name.upper() for name in Settings.model_fields}


def test_all_invalid_values_are_reported_together() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({"PORT": "x", "WORKERS": "x"})
    assert str(caught.value).splitlines() == [
        "PORT must be an integer between 1 and 65535, got 'x'.",
        "WORKERS must be an integer between 1 and 256, or auto, got 'x'.",
    ]


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("PORT", " 9000 ", 9000),
        ("DEBUG", "TRUE", True),
        ("DEBUG", "0", False),
        ("INFERENCE_ENGINE", "Llama.CPP", "llama_cpp"),
        ("DEVICE_TYPE", "CPU", "cpu"),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("WORKER_CLASS", "GEVENT", "gevent"),
        ("LOAD_TIMEOUT", "0.5", 0.5),
        ("MODELS_DIR", "~/models", Path.home() / "models"),
        ("MODELS_DIR", "here", Path("here").absolute()),
        ("DEFAULT_MODEL", "", ""),
        ("PORT", "", 8001),
        ("PORT", "  ", 8001),
        ("WORKERS", "Auto", 0),
    ],
)
def test_values(name: str, value: str, read: object) -> None:
    assert getattr(Settings.load({name: value}), name.lower()) == read


@pytest.mark.parametrize("given", [{}, {"WORKERS": "auto", "DEBUG": "1", "MODELS_DIR": "/m n"}])
def test_a_child_process_reads_them_from_the_environment(given: dict[str, str]) -> None:
    settings = Settings.load(given)
    assert Settings.load(settings.environ()) == settings


def test_extra_engines_extend_the_allowed_engines() -> None:
    own = Settings.load({"EXTRA_ENGINES": " a=m.n:C , My.Own = x:Y,", "INFERENCE_ENGINE": "my.own"})
    assert own.engine_plugins == {"a": "m.n:C", "my_own": "x:Y"}
    with pytest.raises(SettingsError, match="must be auto, mlx, vllm, llama_cpp or a, got 'b'"):
        Settings.load({"EXTRA_ENGINES": "a=m:C", "INFERENCE_ENGINE": "b"})


def test_the_environment_takes_precedence_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("PORT=1\nWORKERS=3 # a comment\nDEFAULT_MODEL='a b'\nHOST=0.0.0.0\nDEBUG\n")
    read = Settings.load({"PORT": "2", "HOST": "", "OTHER": "x"}, file)
    assert (read.port, read.workers, read.default_model) == (2, 3, "a b")
    assert read.host == "127.0.0.1", "an empty variable is the default"
    assert Settings.load({}, tmp_path / "none").port == 8001


def test_load_settings_reads_the_environment_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("PORT=1234")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PORT", raising=False)
    assert load_settings().port == 1234


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings.load({}).port = 5


def test_the_example_documents_every_variable_with_its_default() -> None:
    lines = EXAMPLE.read_text().splitlines()
    shown = {}
    for number, line in enumerate(lines):
        if re.match(r"[A-Z_]+=", line):
            name, _, value = line.partition("=")
            shown[name] = value
            assert re.match(r"# \S.*\.$", lines[number - 1]), f"{name} has no comment above it"
    assert list(shown) == [name.upper() for name in Settings.model_fields]
    assert Settings.load(shown) == Settings.load({})
    optional = {
        "API_KEYS",
        "ALLOWED_HOSTS",
        "CORS_ORIGINS",
        "TRUSTED_PROXIES",
        "URL_PREFIX",
        "TLS_CERTFILE",
        "TLS_KEYFILE",
        "CONFIG_KEY_FILE",
        "EXTRA_ENGINES",
        "DEFAULT_MODEL",
        "MODEL_ENGINES",
        "VLLM_PYTHON",
        "VLLM_EXTRA_ARGS",
    }
    assert {name for name, value in shown.items() if not value} == optional


@pytest.mark.parametrize(
    ("value", "meaning"),
    [
        ("contract", "contract"),
        ("strict", "strict"),
        ("lenient", "lenient"),
        ("true", "contract"),
        ("False", "lenient"),
    ],
)
def test_the_spellings_of_strict_parameters(value: str, meaning: str) -> None:
    assert Settings.load({"STRICT_PARAMETERS": value}).strict_parameters == meaning
