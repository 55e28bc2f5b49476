"""The Dockerfile and the compose file, as far as they can be held to the truth without Docker."""

from __future__ import annotations

import fnmatch
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.tools import DEPLOY, program
from tests.fake_engine import ENVIRONMENT, write_model
from tests.ports import free_port
from tests.service import ROOT, Service
from vllm_obtain.config.settings import Settings

DOCKER = DEPLOY / "docker"
# One line per instruction.
LINES = re.sub(r"\\\n\s*", "", (DOCKER / "Dockerfile").read_text()).splitlines()
COMPOSE = yaml.safe_load((DOCKER / "compose.yml").read_text())
NAMES = {name.upper() for name in Settings.model_fields}


def instructions(name: str) -> list[str]:
    return [line.removeprefix(f"{name} ") for line in LINES if line.startswith(f"{name} ")]


def environment() -> dict[str, str]:
    """What the image sets, but for PATH."""
    pairs = [pair.split("=", 1) for text in instructions("ENV") for pair in text.split()]
    return {name: value for name, value in pairs if name != "PATH"}


def context(folder: Path) -> Path:
    """Copy what a build would be given, and no more."""
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*"
    folder.mkdir()
    for name in (line[1:] for line in ignored if line[0] == "!"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    return folder


def test_each_instruction_is_one() -> None:
    words = {"FROM", "ARG", "WORKDIR", "RUN", "COPY", "ENV", "USER", "VOLUME", "EXPOSE"}
    words |= {"HEALTHCHECK", "STOPSIGNAL", "ENTRYPOINT", "CMD"}
    found = {line.split()[0] for line in LINES if line and not line.startswith(("#", " "))}
    assert found == words
    assert instructions("USER") == ["vllm-obtain"]


def test_the_package_can_be_built_of_what_is_copied(tmp_path: Path) -> None:
    given = context(tmp_path / "context")
    built = tmp_path / "src"
    built.mkdir()
    for text in instructions("COPY"):
        if "--from" in text:
            continue
        *sources, target = text.split()
        for source in sources:
            here = given / source
            assert here.exists(), f"{source} is not given to the build"
            if here.is_dir():
                shutil.copytree(here, built / target)
            else:
                shutil.copy(here, built)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    result = subprocess.run([*command, str(tmp_path), str(built)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    inside = set(zipfile.ZipFile(wheel).namelist())
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "vllm_obtain").rglob("*.py")}
    assert ours <= inside, ours - inside
    assert any(fnmatch.fnmatch(name, "*.dist-info/entry_points.txt") for name in inside)


def test_extras_that_are_installed_exist() -> None:
    (extras,) = [
        re.findall(r"'\.\[(\w+)\]'", text) for text in instructions("RUN") if "'.[" in text
    ]
    text = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", text, re.MULTILINE) for extra in extras)


def test_its_environment_names_settings() -> None:
    assert set(environment()) - {"PYTHONUNBUFFERED"} <= NAMES
    service = COMPOSE["services"]["vllm-obtain"]
    given = service["environment"]
    assert {name.removesuffix("_FILE") for name in given} <= NAMES
    Settings.load({name: value for name, value in given.items() if not name.endswith("_FILE")})
    assert float(service["stop_grace_period"].removesuffix("s")) > float(given["GRACE_PERIOD"])


def test_it_does_not_start_without_keys_and_is_healthy_with_one(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    write_model(models, "a")
    (entry,), (words,) = instructions("ENTRYPOINT"), instructions("CMD")
    assert json.loads(entry) == ["vllm-obtain"]
    command = ["-m", "vllm_obtain", *json.loads(words)]
    env = {**environment(), **ENVIRONMENT, "MODELS_DIR": str(models)}
    env |= {"LOG_DIR": str(tmp_path), "KEYS_FILE": str(tmp_path / "keys.json")}
    del env["PORT"]
    with pytest.raises(AssertionError, match="no API keys are configured"):
        Service(command, tmp_path, env).start()
    (tmp_path / "api_keys").write_text("a-key-of-the-container\n")
    env["API_KEYS_FILE"] = str(tmp_path / "api_keys")
    with Service(command, tmp_path, env) as service:
        assert healthy(service.port) == 0
        assert service.request("/v1/models")[0] == 401
    assert healthy(service.port) != 0


def healthy(port: int) -> int:
    """The status that the image's HEALTHCHECK ends with."""
    (text,) = instructions("HEALTHCHECK")
    python, *words = json.loads(text.partition("CMD ")[2])
    assert python == "python"
    result = subprocess.run([sys.executable, *words], env={"PORT": str(port)}, capture_output=True)
    return result.returncode


def test_the_parts_of_the_composition_fit() -> None:
    services: dict[str, Any] = COMPOSE["services"]
    assert set(services) == {"vllm-obtain", "nginx", "prometheus", "grafana"}
    for service in services.values():
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            assert target.startswith("/")
            if source.startswith("."):
                assert (DOCKER / source).exists(), source
            else:
                assert source in COMPOSE["volumes"]
        for secret in service.get("secrets", []):
            assert (secret if isinstance(secret, str) else secret["source"]) in COMPOSE["secrets"]
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "nothing is open to others by itself"
    build = services["vllm-obtain"]["build"]
    dockerfile = (DOCKER / build["context"] / build["dockerfile"]).resolve()
    assert dockerfile == DOCKER / "Dockerfile"
    (targets,) = yaml.safe_load((DOCKER / "prometheus-targets.yml").read_text())
    assert targets["targets"] == [f"vllm-obtain:{environment()['PORT']}"]
    instances = (DOCKER / "nginx-instances.conf").read_text()
    assert set(re.findall(r"server ([\w:-]+);", instances)) == set(targets["targets"])


def test_its_nginx_accepts_the_files(tmp_path: Path) -> None:
    nginx = program("nginx", "nginx-light")
    shell = COMPOSE["services"]["nginx"]["command"]
    assert shell[:2] == ["sh", "-c"]
    port = free_port()
    conf = tmp_path / "conf.d"
    conf.mkdir()
    text = (DOCKER / "nginx-instances.conf").read_text()
    (conf / "default.conf").write_text(text.replace("vllm-obtain:8001", "127.0.0.1:1"))
    # Its own command, with other places for the files.
    edited = shell[2].replace("/files", str(DEPLOY / "nginx"))
    edited = edited.replace("/listen 8000/", f"/listen {port}/")
    edited = edited.replace("/etc/nginx/conf.d", str(conf)).partition("&& exec")[0]
    subprocess.run(["sh", "-c", edited], check=True)
    made = (conf / "vllm-obtain.conf").read_text()
    assert "127.0.0.1:8000" not in made and re.search(rf"^\s*listen {port};", made, re.MULTILINE)
    (conf / "vllm-obtain.conf").write_text(made.replace("/var/log/nginx/", f"{tmp_path}/"))
    (tmp_path / "nginx.conf").write_text("events {} http { include conf.d/*.conf; }")
    check = [nginx, "-t", "-p", f"{tmp_path}/", "-c", "nginx.conf", "-g", f"pid {tmp_path}/pid;"]
    result = subprocess.run(check, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
