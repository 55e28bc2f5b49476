"""All commands, in the order in which `--help` shows them."""

from __future__ import annotations

import typer

from vllm_obtain.cli import backup, bench, chat, config, keys, logs, models, serve, service, status

app = typer.Typer(
    help="Self-hosted, OpenAI-compatible LLM server for llama.cpp, MLX and vLLM.",
    epilog="Exit codes: 0 success, 1 error (see the last line), 2 invalid command line, "
    "10 `update --check` found updates, 130 interrupted.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

_SERVICE, _MODELS, _RUNNING = "Service", "Models on disk", "Running models"
_DATA = "Data and access"

app.command(rich_help_panel=_SERVICE)(serve.serve)
app.command(rich_help_panel=_SERVICE)(serve.stop)
app.command(rich_help_panel=_SERVICE)(serve.upgrade)
app.command(rich_help_panel=_SERVICE)(status.status)
app.command(rich_help_panel=_SERVICE)(logs.logs)
app.command(rich_help_panel=_SERVICE)(serve.doctor)
app.command(rich_help_panel=_SERVICE)(serve.version)

app.command(rich_help_panel=_MODELS)(models.pull)
app.command(rich_help_panel=_MODELS)(models.update)
app.command("list", rich_help_panel=_MODELS)(models.list_models)
app.command(rich_help_panel=_MODELS)(models.show)
app.command(rich_help_panel=_MODELS)(models.verify)
app.command("rm", rich_help_panel=_MODELS)(models.remove)

app.command(rich_help_panel=_RUNNING)(chat.run)
app.command(rich_help_panel=_RUNNING)(status.ps)
app.command(rich_help_panel=_RUNNING)(status.load)
app.command(rich_help_panel=_RUNNING)(status.unload)
app.command(rich_help_panel=_RUNNING)(status.switch)
app.command(rich_help_panel=_RUNNING)(bench.bench)

app.add_typer(service.app, name="service", rich_help_panel=_SERVICE)
app.command(rich_help_panel=_DATA)(backup.backup)
app.command(rich_help_panel=_DATA)(backup.restore)
app.add_typer(keys.app, name="keys", rich_help_panel=_DATA)
app.add_typer(config.app, name="config", rich_help_panel=_DATA)
