"""Prints a report on the terminal: tables to read, commands to copy."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllm_obtain.doctor.findings import Finding, ModelRow
from vllm_obtain.doctor.recommendations import Recommendation
from vllm_obtain.doctor.report import Report
from vllm_obtain.engines.detection.verdict import EngineAvailability

_TARGETS = {"mlx": "MLX", "hf": "Hugging Face", "gguf": "GGUF"}


def show(report: Report, console: Console) -> None:
    """Print a report.

    Args:
        report: the report.
        console: terminal; decides width and colors.
    """
    _heading(console, f"vllm-obtain {report.version}: machine")
    console.print(_machine(report.machine))
    _heading(console, "Engines in order of preference")
    console.print(_engines(report.engines))
    console.print()
    _heading(console, "Local models")
    console.print(_models(report) if report.models else Text("  none"))
    console.print()
    if report.suits is not None:
        _recommendation(console, report.suits)
    _findings(console, "Problems", report.fix)
    _findings(console, "Recommended improvements", report.improve)
    _findings(console, "Additional engines", report.add)
    console.print(_summary(report))


def _machine(rows: dict[str, str]) -> Table:
    table = Table.grid(padding=(0, 2), pad_edge=True)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(f"  {name}"), Text(value))
    table.add_row("", "")
    return table


def _engines(engines: Iterable[EngineAvailability]) -> Table:
    table = _table("Engine", "Usable", "Version", "Device", "Note")
    for engine in engines:
        usable = engine.reason is None
        table.add_row(
            Text(engine.engine),
            Text("yes", "green") if usable else Text("no", "red" if engine.installed else "yellow"),
            Text(engine.version or ""),
            Text(engine.device or ""),
            Text(engine.reason or engine.note or ""),
        )
    return table


def _models(report: Report) -> Table:
    table = _table("Model", "Files", "Engine", "Reason")
    for model in report.models:
        name = Text(model.name)
        if model.name == report.default_model:
            name.append(" (default)", "dim")
        engine = Text(model.engine, "green") if model.engine else Text("none", "red")
        if model.conversion:
            engine.append(f", as {_TARGETS[model.conversion]}")
        table.add_row(name, Text(_files(model)), engine, Text(model.reason or model.problem or ""))
    return table


def _recommendation(console: Console, recommendation: Recommendation) -> None:
    memory = f"{recommendation.memory_bytes / 2**30:.0f} GiB for models"
    _heading(console, f"Recommended models (hardware tier: {recommendation.level}; {memory})")
    if not recommendation.models:
        console.print(Text("  No model of the catalog fits into memory with a useful context."))
        console.print()
        return
    table = _table("Best for", "Model", "Engine", "Memory", "Context", "Description")
    for model in recommendation.models:
        engine = model.engine if model.ready else f"{model.engine} (not installed)"
        name = Text(model.name, "green" if model.here else "")
        size = f"{model.memory_bytes / 1e9:.1f} GB"
        table.add_row(model.kind, name, engine, size, f"{model.context:,}", Text(model.about))
    console.print(table)
    console.print()
    for model in recommendation.models:
        command = f"{model.command}  # already downloaded" if model.here else model.command
        console.print(Text(f"       {command}", "cyan"), soft_wrap=True)
    console.print()
    if recommendation.settings:
        _heading(console, "Recommended settings")
    for setting in recommendation.settings:
        console.print(Text(f"       {setting.name}={setting.value}", "cyan"), soft_wrap=True)
        console.print(Text(f"         {setting.why}"))
    console.print()


def _files(model: ModelRow) -> str:
    size = model.size_bytes
    unit = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
    return f"{model.format}\n{unit}"


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=True, show_edge=False, padding=(0, 1))
    for column in columns[:-1]:
        table.add_column(column, overflow="fold")
    table.add_column(columns[-1], ratio=1, min_width=20, overflow="fold")
    return table


def _findings(console: Console, title: str, findings: list[Finding]) -> None:
    if not findings:
        return
    _heading(console, title)
    for number, finding in enumerate(findings, 1):
        row = Table.grid(padding=(0, 1))
        row.add_column(no_wrap=True)
        row.add_column(overflow="fold")
        row.add_row(Text(f"  {number}."), Text(finding.text))
        console.print(row)
        if finding.command:
            # Commands are not wrapped, so that they can be copied.
            console.print(Text(f"       {finding.command}", "cyan"), soft_wrap=True)
        if finding.then:
            console.print(Text(f"     Then {finding.then}"), soft_wrap=True)
    console.print()


def _summary(report: Report) -> Text:
    if report.ok:
        usable = [model for model in report.models if model.engine]
        first = next((m for m in usable if m.name == report.default_model), usable[0])
        return Text(f"Ready to serve {first.name} on {first.engine}.", "green")
    if not report.settings_ok:
        return Text("The service cannot start: fix the settings listed above.", "red")
    return Text("No model can be served: fix the problems listed above.", "red")


def _heading(console: Console, text: str) -> None:
    console.print(Text(text, "bold underline" if console.is_terminal else ""))
    console.print()
