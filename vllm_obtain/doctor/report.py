"""The doctor's report as plain data. An error while collecting it becomes a finding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vllm_obtain import __version__
from vllm_obtain.config.settings import Settings
from vllm_obtain.doctor import advice, machine
from vllm_obtain.doctor.findings import Finding, ModelRow
from vllm_obtain.doctor.recommendations import Recommendation, recommend
from vllm_obtain.download import library as names
from vllm_obtain.engines import registry
from vllm_obtain.engines.detection import detect
from vllm_obtain.engines.detection.verdict import EngineAvailability
from vllm_obtain.engines.selection import EngineRejection, explain_engines
from vllm_obtain.errors import ServiceError, SettingsError, StartError
from vllm_obtain.hardware import machine as hardware
from vllm_obtain.models import ModelCatalog

_MAX_INVALID_SETTINGS = 20
_NO_TABLES = {"MODEL_SETTINGS": "/nonexistent/models.toml"}
_VARIABLE = re.compile(r"^([A-Z_]+)(?:=| must )", re.MULTILINE)


@dataclass
class Report:
    """Result of `vllm-obtain doctor`. The field names are those of its JSON output.

    Args:
        version: version of vllm-obtain.
        machine: labels and values that describe the machine.
        engines: engines in the order of preference on this machine.
        models: local models and the engines selected for them.
        default_model: model for requests that name none, or None.
        fix: problems that prevent something from working.
        improve: recommended improvements.
        add: additional engines that can be installed.
        suits: recommended models and settings; None if they could not be determined.
        settings_ok: whether all settings are valid.
    """

    version: str = __version__
    machine: dict[str, str] = field(default_factory=dict)
    engines: list[EngineAvailability] = field(default_factory=list)
    models: list[ModelRow] = field(default_factory=list)
    default_model: str | None = None
    fix: list[Finding] = field(default_factory=list)
    improve: list[Finding] = field(default_factory=list)
    add: list[Finding] = field(default_factory=list)
    suits: Recommendation | None = None
    settings_ok: bool = True

    @property
    def ok(self) -> bool:
        """Whether a model can be served here."""
        return self.settings_ok and any(model.engine for model in self.models)


def collect(environ: Mapping[str, str], dotenv: Path) -> Report:
    """Collect the report.

    Args:
        environ: environment variables.
        dotenv: path of the `.env` file; it need not exist.
    """
    report = Report()
    settings = _settings(report, environ, dotenv)
    with _guarded(report, "the machine"):
        report.machine = machine.rows(settings, dotenv)
    with _guarded(report, "DEVICE_TYPE"):
        _device(report, settings)
    with _guarded(report, "the engines"):
        _engines(report, settings)
    with _guarded(report, f"MODELS_DIR={settings.models_dir}"):
        _models(report, settings)
    with _guarded(report, "the recommended models"):
        local = [model.name for model in report.models]
        library = names.load(settings.models_dir)
        report.suits = recommend(detect.host().machine, settings, report.engines, library, local)
    with _guarded(report, "the findings"):
        report.fix.extend(advice.fixes(settings, report.engines, report.models))
        report.improve.extend(advice.improvements(settings, report.engines, report.models))
        commands = {finding.command for finding in (*report.fix, *report.improve)}
        additions = advice.additions(report.engines)
        report.add.extend(finding for finding in additions if finding.command not in commands)
    return report


def _settings(report: Report, environ: Mapping[str, str], dotenv: Path) -> Settings:
    """Read the settings. Invalid ones become findings and are replaced by their defaults."""
    values, file = dict(environ), dotenv
    for _ in range(_MAX_INVALID_SETTINGS):
        try:
            return Settings.load(values, file)
        except SettingsError as error:
            report.settings_ok = False
            invalid = [name for name in _VARIABLE.findall(str(error)) if values.get(name) != ""]
            report.fix += [Finding(line) for line in str(error).splitlines()]
            # An empty value selects the default, also over `.env`. The default of MODEL_SETTINGS
            # may be the invalid file.
            tables = _NO_TABLES if "MODEL_SETTINGS" in invalid else {}
            values |= dict.fromkeys(invalid, "") | tables
            file = file if invalid else Path("/nonexistent/.env")
    return Settings.load(_NO_TABLES)


def _device(report: Report, settings: Settings) -> None:
    try:
        hardware.device(settings.device_type, detect.host().machine)
    except StartError as error:
        report.settings_ok = False
        report.fix.append(Finding(str(error)))


def _engines(report: Report, settings: Settings) -> None:
    names = advice.order(settings)
    detect.warm(names, settings, fresh=True)
    report.engines = [detect.facts(name, settings) for name in names]
    report.engines += [_plugin(name, settings) for name in settings.engine_plugins]


def _plugin(name: str, settings: Settings) -> EngineAvailability:
    try:
        return EngineAvailability(
            name, True, reason=registry.adapter(name, settings).why_unavailable()
        )
    except ServiceError as error:
        return EngineAvailability(name, False, reason=error.message)


def _models(report: Report, settings: Settings) -> None:
    if problem := _unreadable(settings.models_dir):
        report.fix.append(problem)
    models = ModelCatalog(settings.models_dir, table=settings.models).models()
    for model in models:
        row = ModelRow(model.name, model.format, model.size_bytes)
        report.models.append(row)
        if model.problem:
            row.problem = f"Not usable: {model.problem}."
            continue
        choices, rejections = explain_engines(model, settings)
        if choices:
            row.engine, row.conversion = choices[0].adapter.name, choices[0].conversion
            row.reason = choices[0].reason
        else:
            row.problem = " ".join(
                f"{name}: {_reason(name, rejection, report)}"
                for name, rejection in rejections.items()
            )
    report.default_model = _default(report, settings)


def _reason(name: str, rejection: EngineRejection, report: Report) -> str:
    """Return the reason without the install command, which the report has in another section."""
    short = next((engine.reason for engine in report.engines if engine.engine == name), None)
    return short if rejection.missing and short else rejection.reason


def _default(report: Report, settings: Settings) -> str | None:
    configured = settings.default_model.casefold()
    if not configured:
        return next((row.name for row in report.models if row.engine), None)
    name = next((row.name for row in report.models if row.name.casefold() == configured), None)
    if name is None and report.models:
        local = ", ".join(row.name for row in report.models)
        text = f"DEFAULT_MODEL={settings.default_model} is not a local model. Set one of: {local}."
        report.fix.append(Finding(text))
    return name


def _unreadable(folder: Path) -> Finding | None:
    if not folder.exists():
        return None  # the service creates it; `advice.fixes` reports that there is no model
    if not folder.is_dir():
        return Finding(f"MODELS_DIR={folder} is not a folder.")
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        text = f"Cannot read MODELS_DIR={folder}: {error.strerror}."
        return Finding(text, f"ls -ld {folder}")
    return None


@contextmanager
def _guarded(report: Report, subject: str) -> Iterator[None]:
    """Turn an exception in the block into a finding."""
    try:
        yield
    except Exception as error:  # the other sections are still useful
        text = f"{type(error).__name__}: {error}".rstrip(": .")
        report.fix.append(Finding(f"Could not check {subject}: {text}."))
