"""Everything the doctor says, as plain data. What goes wrong meanwhile becomes a finding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from vllm_obtain import __version__, hardware
from vllm_obtain.catalogue import Catalogue
from vllm_obtain.doctor import advice, machine
from vllm_obtain.doctor.findings import Finding, ModelRow
from vllm_obtain.doctor.recommending import Recommendation, recommend
from vllm_obtain.engines import detect, registry
from vllm_obtain.engines.choice import Refusal, examined
from vllm_obtain.engines.detect_judge import Facts
from vllm_obtain.errors import ServiceError, SettingsError, StartError
from vllm_obtain.fetching import known as names
from vllm_obtain.settings import Settings

_MOST_BAD_SETTINGS = 20
_NO_TABLES = {"MODEL_SETTINGS": "/nonexistent/models.toml"}
_VARIABLE = re.compile(r"^([A-Z_]+)=", re.MULTILINE)


@dataclass
class Report:
    """What the doctor found.

    Args:
        version: of this service.
        machine: facts of the machine by name, in order.
        engines: the engines, those that come first here first.
        models: the models and what would serve them.
        default_model: the one that requests without a name get, or None.
        fix: what keeps something from working.
        improve: what could be better.
        add: engines that could be installed, though others serve.
        suits: models and settings that suit this machine, None when that could not be said.
        settings_ok: whether the service would start with these settings.
    """

    version: str = __version__
    machine: dict[str, str] = field(default_factory=dict)
    engines: list[Facts] = field(default_factory=list)
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
    """Look at everything.

    Args:
        environ: variables, such as `os.environ`.
        dotenv: the `.env` file; it need not exist.
    """
    made = Report()
    settings = _settings(made, environ, dotenv)
    with _guarded(made, "The machine"):
        made.machine = machine.rows(settings, dotenv)
    with _guarded(made, "DEVICE_TYPE"):
        _device(made, settings)
    with _guarded(made, "The engines"):
        _engines(made, settings)
    with _guarded(made, f"MODELS_DIR={settings.models_dir}"):
        _models(made, settings)
    with _guarded(made, "The names that can be pulled"):
        here = [model.name for model in made.models]
        pulled = names.load(settings.models_dir)
        made.suits = recommend(detect.host().machine, settings, made.engines, pulled, here)
    with _guarded(made, "What to do"):
        made.fix.extend(advice.fixes(settings, made.engines, made.models))
        made.improve.extend(advice.improvements(settings, made.engines, made.models))
        known = {finding.command for finding in (*made.fix, *made.improve)}
        more = advice.additions(made.engines)
        made.add.extend(finding for finding in more if finding.command not in known)
    return made


def _settings(made: Report, environ: Mapping[str, str], dotenv: Path) -> Settings:
    """Read the settings; those that are not allowed become findings and are left out."""
    values, file = dict(environ), dotenv
    for _ in range(_MOST_BAD_SETTINGS):
        try:
            return Settings.load(values, file)
        except SettingsError as error:
            made.settings_ok = False
            bad = [name for name in _VARIABLE.findall(str(error)) if values.get(name) != ""]
            made.fix += [Finding(line) for line in str(error).splitlines()]
            # An empty value stands for the default, also over the file. That of MODEL_SETTINGS is
            # a file that may be the bad one.
            values |= dict.fromkeys(bad, "") | (_NO_TABLES if "MODEL_SETTINGS" in bad else {})
            file = file if bad else Path("/nonexistent/.env")
    return Settings.load(_NO_TABLES)


def _device(made: Report, settings: Settings) -> None:
    try:
        hardware.device(settings.device_type, detect.host().machine)
    except StartError as error:
        made.settings_ok = False
        made.fix.append(Finding(str(error)))


def _engines(made: Report, settings: Settings) -> None:
    names = advice.order(settings)
    detect.warm(names, settings, fresh=True)
    made.engines = [detect.facts(name, settings) for name in names]
    made.engines += [_plugin(name, settings) for name in settings.engine_plugins]


def _plugin(name: str, settings: Settings) -> Facts:
    try:
        return Facts(name, True, reason=registry.adapter(name, settings).missing())
    except ServiceError as error:
        return Facts(name, False, reason=error.message)


def _models(made: Report, settings: Settings) -> None:
    if problem := _unreadable(settings.models_dir):
        made.fix.append(problem)
    models = Catalogue(settings.models_dir, table=settings.models).models()
    for model in models:
        row = ModelRow(model.name, model.format, model.size_bytes)
        made.models.append(row)
        if model.problem:
            row.problem = f"It cannot be used: {model.problem}."
            continue
        found, refusals = examined(model, settings)
        if found:
            row.engine, row.conversion = found[0].adapter.name, found[0].conversion
            row.reason = found[0].reason
        else:
            said = (f"{name}: {_why(name, why, made)}" for name, why in refusals.items())
            row.problem = " ".join(said)
    made.default_model = _default(made, settings)


def _why(name: str, refusal: Refusal, made: Report) -> str:
    """Say it without the command, which stands elsewhere in the report."""
    short = next((engine.reason for engine in made.engines if engine.engine == name), None)
    return short if refusal.missing and short else refusal.reason


def _default(made: Report, settings: Settings) -> str | None:
    named = settings.default_model.casefold()
    if not named:
        return next((row.name for row in made.models if row.engine), None)
    found = next((row.name for row in made.models if row.name.casefold() == named), None)
    if found is None and made.models:
        known = ", ".join(row.name for row in made.models)
        text = f"DEFAULT_MODEL={settings.default_model} is no model. Models here: {known}."
        made.fix.append(Finding(text))
    return found


def _unreadable(folder: Path) -> Finding | None:
    if not folder.exists():
        return None  # the service makes it, and says that there is no model yet
    if not folder.is_dir():
        return Finding(f"MODELS_DIR={folder} is no folder.")
    try:
        next(folder.iterdir(), None)
    except OSError as error:
        return Finding(f"MODELS_DIR={folder} cannot be read: {error.strerror}.", f"ls -ld {folder}")
    return None


@contextmanager
def _guarded(made: Report, what: str) -> Iterator[None]:
    """Turn whatever goes wrong in here into a finding."""
    try:
        yield
    except Exception as error:  # a doctor that falls over helps nobody
        made.fix.append(Finding(f"{what} could not be looked at: {_said(error)}."))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": .")
