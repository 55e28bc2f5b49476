"""Shows a report on a terminal: tables to read, commands to copy."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vllm_obtain.doctor.findings import Finding, ModelRow
from vllm_obtain.doctor.recommending import Recommendation
from vllm_obtain.doctor.report import Report
from vllm_obtain.engines.detect_judge import Facts

_TARGETS = {"mlx": "MLX", "hf": "Hugging Face", "gguf": "GGUF"}


def show(report: Report, console: Console) -> None:
    """Print a report.

    Args:
        report: what was found.
        console: where to; decides width and colours.
    """
    _heading(console, f"vllm-obtain {report.version}: this machine")
    console.print(_machine(report.machine))
    _heading(console, "Engines, in the order in which they are chosen here")
    console.print(_engines(report.engines))
    console.print()
    _heading(console, "Models")
    console.print(_models(report) if report.models else Text("  none"))
    console.print()
    if report.suits is not None:
        _suits(console, report.suits)
    _findings(console, "What to fix", report.fix)
    _findings(console, "What could be better", report.improve)
    _findings(console, "Engines that could be added", report.add)
    console.print(_verdict(report))


def _machine(rows: dict[str, str]) -> Table:
    made = Table.grid(padding=(0, 2), pad_edge=True)
    made.add_column(style="bold", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows.items():
        made.add_row(Text(f"  {name}"), Text(value))
    made.add_row("", "")
    return made


def _engines(engines: Iterable[Facts]) -> Table:
    made = _table("Engine", "Can run", "Version", "Device", "")
    for engine in engines:
        able = engine.reason is None
        made.add_row(
            Text(engine.engine),
            Text("yes", "green") if able else Text("no", "red" if engine.installed else "yellow"),
            Text(engine.version or ""),
            Text(engine.device or ""),
            Text(engine.reason or engine.note or ""),
        )
    return made


def _models(report: Report) -> Table:
    made = _table("Model", "Files", "Engine", "Why")
    for model in report.models:
        name = Text(model.name)
        if model.name == report.default_model:
            name.append(" (default)", "dim")
        engine = Text(model.engine, "green") if model.engine else Text("none", "red")
        if model.conversion:
            engine.append(f", as {_TARGETS[model.conversion]}")
        made.add_row(name, Text(_files(model)), engine, Text(model.reason or model.problem or ""))
    return made


def _suits(console: Console, found: Recommendation) -> None:
    memory = f"{found.memory_bytes / 2**30:.0f} GiB for models"
    _heading(console, f"What suits this machine: class {found.level}, {memory}")
    if not found.models:
        console.print(Text("  No model that has a name here fits with a context worth having."))
        console.print()
        return
    made = _table("Best for", "Model", "Engine", "Memory", "Context", "")
    for each in found.models:
        engine = each.engine if each.ready else f"{each.engine} (install it)"
        name = Text(each.name, "green" if each.here else "")
        size = f"{each.memory_bytes / 1e9:.1f} GB"
        made.add_row(each.kind, name, engine, size, f"{each.context:,}", Text(each.about))
    console.print(made)
    console.print()
    for each in found.models:
        command = f"{each.command}  # it is here" if each.here else each.command
        console.print(Text(f"       {command}", "cyan"), soft_wrap=True)
    for setting in found.settings:
        console.print(Text(f"       {setting.name}={setting.value}", "cyan"), soft_wrap=True)
        console.print(Text(f"         {setting.why}"))
    console.print()


def _files(model: ModelRow) -> str:
    size = model.size_bytes
    unit = f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
    return f"{model.format}\n{unit}"


def _table(*columns: str) -> Table:
    made = Table(box=SIMPLE_HEAD, pad_edge=True, show_edge=False, padding=(0, 1))
    for column in columns[:-1]:
        made.add_column(column, overflow="fold")
    made.add_column(columns[-1], ratio=1, min_width=20, overflow="fold")
    return made


def _findings(console: Console, title: str, findings: Iterable[Finding]) -> None:
    found = list(findings)
    if not found:
        return
    _heading(console, title)
    for number, finding in enumerate(found, 1):
        row = Table.grid(padding=(0, 1))
        row.add_column(no_wrap=True)
        row.add_column(overflow="fold")
        row.add_row(Text(f"  {number}."), Text(finding.text))
        console.print(row)
        if finding.command:
            # In one piece whatever the width, so that it can be copied.
            console.print(Text(f"       {finding.command}", "cyan"), soft_wrap=True)
        if finding.then:
            console.print(Text(f"     Then {finding.then}"), soft_wrap=True)
    console.print()


def _verdict(report: Report) -> Text:
    if report.ok:
        served = [model for model in report.models if model.engine]
        first = next((m for m in served if m.name == report.default_model), served[0])
        return Text(f"A model can be served: {first.name} on {first.engine}.", "green")
    return Text("No model can be served here as things are.", "red")


def _heading(console: Console, text: str) -> None:
    console.print(Text(text, "bold underline" if console.is_terminal else ""))
    console.print()
