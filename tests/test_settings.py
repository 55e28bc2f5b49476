from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from vllm_obtain.errors import SettingsError
from vllm_obtain.settings import Settings, load_settings

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / ".env.example"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("PORT", "0", "greater than or equal to 1"),
        ("PORT", "65536", "less than or equal to 65535"),
        ("PORT", "http", "a valid integer"),
        ("PORT", "1.5", "a valid integer"),
        ("DEBUG", "maybe", "a valid boolean"),
        ("WORKERS", "0", "greater than or equal to 1"),
        ("WORKERS", "257", "less than or equal to 256"),
        ("WORKER_CLASS", "sync", "'gevent'"),
        ("WORKER_CONNECTIONS", "15", "greater than or equal to 16"),
        ("INFERENCE_ENGINE", "tpu", "auto, mlx, vllm, llama_cpp"),
        ("EXTRA_ENGINES", "fake", "name=module:Class"),
        ("EXTRA_ENGINES", "fake=module", "name=module:Class"),
        ("EXTRA_ENGINES", "=module:Class", "name=module:Class"),
        ("EXTRA_ENGINES", "a=b:c,d", "name=module:Class"),
        ("MODEL_ENGINES", "a", "model=engine"),
        ("MODEL_ENGINES", "a=mlx,=vllm", "model=engine"),
        ("MODEL_ENGINES", "a=tpu", "mlx, vllm, llama_cpp"),
        ("MODEL_SOURCE", "both", "allowed: 'auto', 'huggingface' or 'modelscope'"),
        ("HF_ENDPOINT", "hf-mirror.com", "allowed: an address such as https://hf-mirror.com"),
        ("MODELSCOPE_ENDPOINT", "x", "allowed: an address such as https://hf-mirror.com"),
        ("DEVICE_TYPE", "tpu", "'auto', 'mps', 'cuda' or 'cpu'"),
        ("KEYS_FILE", "~no-such-user-here/keys.json", "a path"),
        ("PUBLIC_DOCS", "x", "a valid boolean"),
        ("PUBLIC_METRICS", "x", "a valid boolean"),
        ("CONFIG_KEY_FILE", "~no-such-user-here/key", "a path"),
        ("TLS_CERTFILE", "~no-such-user-here/cert.pem", "a path"),
        ("TLS_KEYFILE", "~no-such-user-here/key.pem", "a path"),
        ("REQUESTS_PER_MINUTE", "-1", "greater than or equal to 0"),
        ("TOKENS_PER_MINUTE", "many", "a valid integer"),
        ("ALLOWED_HOSTS", "http://x.example", "names such as"),
        ("CORS_ORIGINS", "x.example", "origins such as"),
        ("CORS_ORIGINS", "https://x.example/", "origins such as"),
        ("TRUSTED_PROXIES", "nginx", "addresses or networks"),
        ("URL_PREFIX", "llm", "a path such as /llm"),
        ("MODELS_DIR", "~no-such-user-here/models", "a path"),
        ("MODEL_SETTINGS", "~no-such-user-here/models.toml", "a path"),
        ("LOG_DIR", "~no-such-user-here/logs", "a path"),
        ("MAX_CONCURRENT_MODELS", "0", "greater than or equal to 1"),
        ("MLX_MEMORY_FRACTION", "0", "greater than 0"),
        ("MLX_MEMORY_FRACTION", "0.96", "less than or equal to 0.95"),
        ("MLX_MEMORY_FRACTION", "nan", "less than"),
        ("VLLM_GPU_MEMORY_UTILIZATION", "0", "greater than 0"),
        ("VLLM_MAX_MODEL_LEN", "-1", "greater than or equal to 0"),
        ("VLLM_TENSOR_PARALLEL_SIZE", "0", "greater than or equal to 1"),
        ("VLLM_PIPELINE_PARALLEL_SIZE", "0", "greater than or equal to 1"),
        ("VLLM_DISTRIBUTED_EXECUTOR", "x", "'mp' or 'ray'"),
        ("VLLM_EXTRA_ARGS", "--uds x", "set PORT"),
        ("LOG_LEVEL", "loud", "'DEBUG', 'INFO', 'WARNING' or 'ERROR'"),
        ("ENABLE_LOG_FILE", "2", "a valid boolean"),
        ("ENGINE_FAILOVER", "perhaps", "a valid boolean"),
        ("LOG_RETENTION_DAYS", "0", "greater than or equal to 1"),
        ("REQUEST_TIMEOUT", "0", "greater than 0"),
        ("REQUEST_TIMEOUT", "inf", "less than or equal to 86400"),
        ("LOAD_TIMEOUT", "-1", "greater than 0"),
        ("STALL_SECONDS", "-1", "greater than or equal to 0"),
        ("QUARANTINE_SECONDS", "-1", "greater than or equal to 0"),
        ("GRACE_PERIOD", "-1", "greater than or equal to 0"),
        ("MEMORY_LIMIT", "1.5", "a share above 0 up to 1, or a mebibyte at least"),
        ("MEMORY_LIMIT", "much", "bytes such as 24G"),
        ("STREAM_PULSE", "-1", "greater than or equal to 0"),
        ("MAX_CONCURRENT_REQUESTS", "0", "greater than or equal to 1"),
        ("MAX_BODY_MB", "1025", "less than or equal to 1024"),
        ("HEADER_TIMEOUT", "0", "greater than or equal to 1"),
        ("BODY_TIMEOUT", "0", "greater than 0"),
        ("SEND_TIMEOUT", "0", "greater than 0"),
        ("MAX_QUEUED_REQUESTS", "-1", "greater than or equal to 0"),
        ("ENABLE_CACHING", "x", "a valid boolean"),
        ("STREAM_PULSE_CHUNKS", "x", "a valid boolean"),
        ("STRICT_PARAMETERS", "x", "a valid boolean"),
        ("SHARED_PREFIX_CACHE", "x", "a valid boolean"),
        ("CORE_FILES", "x", "a valid boolean"),
        ("LOG_PROMPTS", "x", "a valid boolean"),
        ("IMAGE_URLS", "x", "a valid boolean"),
        ("IMAGE_PRIVATE_ADDRESSES", "x", "a valid boolean"),
        ("IMAGE_FETCH_TIMEOUT", "0", "greater than 0"),
        ("IMAGE_MAX_COUNT", "0", "greater than or equal to 1"),
        ("IMAGE_MAX_MB", "1025", "less than or equal to 1024"),
        ("IMAGE_MAX_MEGAPIXELS", "0", "greater than or equal to 1"),
        ("CACHE_SIZE", "0", "greater than or equal to 1"),
        ("RESPONSES_STORE_MB", "-1", "greater than or equal to 0"),
    ],
)
def test_a_bad_value_names_its_variable_and_what_is_allowed(
    name: str, value: str, allowed: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({name: value})
    assert str(caught.value).startswith(f"{name}='{value}' is not ")
    assert allowed in str(caught.value)


def test_every_number_and_choice_is_tried_above() -> None:
    (marks,) = test_a_bad_value_names_its_variable_and_what_is_allowed.pytestmark
    tried = {name for name, *_ in marks.args[1]}
    anything_goes = {"API_KEYS", "HOST", "DEFAULT_MODEL", "VLLM_PYTHON"}
    assert tried | anything_goes == {name.upper() for name in Settings.model_fields}


def test_all_bad_values_are_told_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.load({"PORT": "x", "WORKERS": "x"})
    assert [line.split("=")[0] for line in str(caught.value).splitlines()] == ["PORT", "WORKERS"]


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
def test_another_process_reads_them_from_the_environment(given: dict[str, str]) -> None:
    settings = Settings.load(given)
    assert Settings.load(settings.environ()) == settings


def test_engines_of_ones_own() -> None:
    own = Settings.load({"EXTRA_ENGINES": " a=m.n:C , My.Own = x:Y,", "INFERENCE_ENGINE": "my.own"})
    assert own.engine_plugins == {"a": "m.n:C", "my_own": "x:Y"}
    with pytest.raises(SettingsError, match="Allowed: auto, mlx, vllm, llama_cpp, a"):
        Settings.load({"EXTRA_ENGINES": "a=m:C", "INFERENCE_ENGINE": "b"})


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("PORT=1\nWORKERS=3 # a comment\nDEFAULT_MODEL='a b'\nHOST=0.0.0.0\nDEBUG\n")
    read = Settings.load({"PORT": "2", "HOST": "", "OTHER": "x"}, file)
    assert (read.port, read.workers, read.default_model) == (2, 3, "a b")
    assert read.host == "127.0.0.1", "an empty variable is the default"
    assert Settings.load({}, tmp_path / "none").port == 8001


def test_reading_those_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PORT=1234")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PORT", raising=False)
    assert load_settings().port == 1234


def test_they_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings.load({}).port = 5


def test_the_example_shows_every_variable_its_default_and_what_it_is() -> None:
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
