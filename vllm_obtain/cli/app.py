"""All commands, in the order in which `--help` shows them."""

from __future__ import annotations

import typer

from vllm_obtain.cli import (
    backing,
    benching,
    chatting,
    config,
    keys,
    models,
    reading,
    running,
    service,
    serving,
)

app = typer.Typer(
    help="One OpenAI-compatible service over your own models.",
    epilog="Exit codes: 0 done, 1 it failed and the last line says why, 2 the command line is "
    "wrong, 10 `update --check` found updates, 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_SERVICE, _MODELS, _RUNNING = "Service", "Models on disk", "Models that run"
_OWNER = "What is yours"

app.command(rich_help_panel=_SERVICE)(serving.serve)
app.command(rich_help_panel=_SERVICE)(serving.stop)
app.command(rich_help_panel=_SERVICE)(serving.upgrade)
app.command(rich_help_panel=_SERVICE)(running.status)
app.command(rich_help_panel=_SERVICE)(reading.logs)
app.command(rich_help_panel=_SERVICE)(serving.doctor)
app.command(rich_help_panel=_SERVICE)(serving.version)

app.command(rich_help_panel=_MODELS)(models.pull)
app.command(rich_help_panel=_MODELS)(models.update)
app.command("list", rich_help_panel=_MODELS)(models.list_models)
app.command(rich_help_panel=_MODELS)(models.show)
app.command(rich_help_panel=_MODELS)(models.verify)
app.command("rm", rich_help_panel=_MODELS)(models.remove)

app.command(rich_help_panel=_RUNNING)(chatting.run)
app.command(rich_help_panel=_RUNNING)(running.ps)
app.command(rich_help_panel=_RUNNING)(running.load)
app.command(rich_help_panel=_RUNNING)(running.unload)
app.command(rich_help_panel=_RUNNING)(running.switch)
app.command(rich_help_panel=_RUNNING)(benching.bench)

app.add_typer(service.app, name="service", rich_help_panel=_SERVICE)
app.command(rich_help_panel=_OWNER)(backing.backup)
app.command(rich_help_panel=_OWNER)(backing.restore)
app.add_typer(keys.app, name="keys", rich_help_panel=_OWNER)
app.add_typer(config.app, name="config", rich_help_panel=_OWNER)
