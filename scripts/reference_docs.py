"""Write the generated parts of docs/reference/ from the code: settings, routes, errors, commands,
metrics and benchmark results. The text around these parts is written by hand.

python scripts/reference_docs.py           writes the pages
python scripts/reference_docs.py --check   exits 1 if a page differs from what the code gives
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer.main
from pydantic import WrapValidator
from pydantic.fields import FieldInfo

from vllm_obtain.cli.app import app
from vllm_obtain.config.settings import Settings
from vllm_obtain.control.messages import EngineStatus, ReleaseLease, RequestRecord
from vllm_obtain.gateway.core.error_codes import CODES
from vllm_obtain.gateway.routes import ROUTES, TAGS
from vllm_obtain.metrics.registry import GaugeCollector, MetricsRegistry

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "reference"
RESULTS = ROOT / "bench" / "results"

_PART = re.compile(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", re.DOTALL)
_NAMES = sorted((name.upper() for name in Settings.model_fields if "_" in name), reverse=True)
_SETTING = re.compile(rf"(?<![\w-])(?:{'|'.join(_NAMES)})(?:=[\w*.-]*\w)?(?!\w)")
_SECTION = re.compile(r"^# --- (.+?) -+$")
_ASSIGNMENT = re.compile(r"^([A-Z_]+)=(.*)$")
_TYPES = {bool: "boolean", int: "integer", float: "number", Path: "path"}
_ACCESS = {
    "open": "none",
    "inference": "any",
    "admin": "`admin`",
    "docs": "any, none with `PUBLIC_DOCS=true`",
    "metrics": "any, none with `PUBLIC_METRICS=true`",
}


def sentence(words: str) -> str:
    """Make text of the code safe in a Markdown table; names of settings become code."""
    parts = " ".join(words.split()).split("`")
    for index in range(0, len(parts), 2):
        plain = parts[index].replace("<", "&lt;").replace("*", "\\*")
        parts[index] = _SETTING.sub(r"`\g<0>`", plain)
    return "`".join(parts).replace("|", "\\|")


def code(value: str) -> str:
    """Write a value as code, nothing for an empty one."""
    return f"`{value}`".replace("|", "\\|") if value else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines).replace("|  |", "| |") + "\n"


# --- Settings ---------------------------------------------------------------------------------


def example() -> Iterator[tuple[str, str, str, str]]:
    """Yield section, name, default and description of each setting in .env.example."""
    section = ""
    comment: list[str] = []
    for line in (ROOT / ".env.example").read_text().splitlines():
        if found := _SECTION.match(line):
            section, comment = found[1], []
        elif found := _ASSIGNMENT.match(line):
            yield section, found[1], found[2], " ".join(comment)
            comment = []
        else:
            comment = [*comment, line.removeprefix("#")] if line.startswith("#") else []


def type_of(field: FieldInfo) -> str:
    """Name the type of a setting, its range or its values."""
    if get_origin(field.annotation) is Literal:
        return " or ".join(code(str(each)) for each in get_args(field.annotation))
    name = _TYPES.get(field.annotation, "text") if isinstance(field.annotation, type) else "text"
    least, above, most = (limit(field, each) for each in ("ge", "gt", "le"))
    start = least or (f"above {above}" if above else "")
    within = f", {start} to {most}" if start and most else ""
    auto = any(isinstance(each, WrapValidator) for each in field.metadata)
    return name + within + (", or `auto`" if auto else "")


def limit(field: FieldInfo, name: str) -> str:
    """Write one limit of a number, empty when it has none."""
    found = (getattr(each, name, None) for each in field.metadata)
    return next((f"{each:,}" for each in found if each is not None), "")


def settings() -> str:
    """Write the tables of settings."""
    sections: dict[str, list[list[str]]] = {}
    for section, name, default, comment in example():
        field = Settings.model_fields[name.lower()]
        row = [code(name), type_of(field), code(default), sentence(field.description or comment)]
        sections.setdefault(section, []).append(row)
    head = ["variable", "type", "default", "description"]
    return "\n".join(f"## {section}\n\n{table(head, rows)}" for section, rows in sections.items())


# --- Routes and errors ------------------------------------------------------------------------


def routes() -> str:
    """Write the tables of routes."""
    head = ["route", "API key", "stream", "description"]
    parts = []
    for tag, description in TAGS.items():
        rows = [
            [
                code(f"{route.method} {route.template}"),
                _ACCESS[route.access],
                "yes" if route.events is not None else "",
                sentence(f"{route.summary} {route.details}"),
            ]
            for route in ROUTES
            if route.tag == tag
        ]
        parts.append(f"## {tag}\n\n{sentence(description)}\n\n{table(head, rows)}")
    return "\n".join(parts)


def errors() -> str:
    """Write the table of errors."""
    rows = [
        [code(each.code), str(each.status), sentence(each.meaning), sentence(each.action)]
        for each in sorted(CODES.values(), key=lambda each: each.status)
    ]
    return table(["code", "status", "meaning", "what to do"], rows)


# --- Commands ---------------------------------------------------------------------------------


def commands() -> str:
    """Write the sections of all commands."""
    root: Any = typer.main.get_command(app)
    panels: dict[str, list[str]] = {}
    for name, command in root.commands.items():
        parts = panels.setdefault(str(command.rich_help_panel), [])
        parts.extend(described(f"vllm-obtain {name}", command))
    sections = (f"## {panel}\n\n" + "\n".join(parts) for panel, parts in panels.items())
    return f"{sentence(root.epilog)}\n\n" + "\n".join(sections)


def described(path: str, command: Any) -> Iterator[str]:
    """Yield the section of a command, or those of its subcommands."""
    subcommands = getattr(command, "commands", {})
    if subcommands:
        yield f"### `{path} COMMAND`\n\n{sentence(command.help)}\n"
        for name, each in subcommands.items():
            yield from described(f"{path} {name}", each)
        return
    given = [each for each in command.params if not each.hidden and each.name != "help"]
    usage = " ".join([path, *(usage_of(each) for each in given if is_argument(each))])
    rows = table(["argument or option", "default", "description"], map(parameter, given))
    yield f"### `{usage}`\n\n{sentence(command.help)}\n" + (f"\n{rows}" if given else "")


def is_argument(given: Any) -> bool:
    """Whether a parameter is positional."""
    return bool(given.param_type_name == "argument")


def metavar(given: Any) -> str:
    """Name the value of a parameter."""
    return str(given.metavar or (given.name.upper() if is_argument(given) else "VALUE"))


def usage_of(argument: Any) -> str:
    """Write an argument as in a usage line: in brackets when it may be left out."""
    name = metavar(argument)
    return name if argument.required or name.startswith("[") else f"[{name}]"


def parameter(given: Any) -> list[str]:
    """Write the row of an argument or an option."""
    names = [*given.opts, *given.secondary_opts]
    if is_argument(given):
        names = [metavar(given)]
    elif not given.secondary_opts and not given.is_flag:
        names = [f"{name} {metavar(given)}" for name in names]
    default = "" if given.default is None or callable(given.default) else str(given.default)
    if given.secondary_opts:
        default = (given.opts if given.default else given.secondary_opts)[0]
    elif not is_argument(given) and given.is_flag:
        default = ""
    shown = "required" if given.required else code(default)
    return [", ".join(map(code, names)), shown, sentence(given.help or "")]


# --- Metrics ----------------------------------------------------------------------------------

# What the supervisor measures when it is scraped; NVIDIA GPUs add more.
_SYSTEM = ("cpu_percent", "memory_total_bytes", "memory_used_bytes", "memory_available_bytes")
_SYSTEM += ("disk_total_bytes", "disk_free_bytes")


def sample(struct: type[Any]) -> Any:
    """Make a message with some value in each field, so that every gauge has a series."""
    values = {"str": "x", "int": 1, "float": 1.0, "bool": True}
    kinds = {name: str(kind).split(" ")[0] for name, kind in struct.__annotations__.items()}
    return struct(**{name: values[kind] for name, kind in kinds.items()})


def families() -> Iterator[Any]:
    """Yield every metric, each with a series."""
    registry = MetricsRegistry()
    registry.count_requests([RequestRecord("/", "GET", 200, 1.0, "hit")])
    registry.count_release("m", "e", ReleaseLease("stop", 1, 1, 2, 1.0, 1.0), 1.0)
    registry.count_load("m", "e", 1.0)
    registry.count_switch("m", "e", "f", "switch")
    cache = {"entries": 1, "bytes": 1}
    memory = {"limit_bytes": 1, "reserved_bytes": 1}
    system = dict.fromkeys(_SYSTEM, 1.0)
    yield from registry.registry.collect()
    yield from GaugeCollector([sample(EngineStatus)], system, 1.0, 1, cache, memory).collect()


def metrics(prefix: str) -> str:
    """Write the table of the metrics whose names begin so."""
    rows = []
    for family in sorted(families(), key=lambda each: str(each.name)):
        labels = dict.fromkeys(name for each in family.samples for name in each.labels)
        shown = ", ".join(code(name) for name in labels if name != "le")
        name = family.name + ("_total" if family.type == "counter" else "")
        if name.startswith(prefix):
            rows.append([code(name), family.type, shown, sentence(family.documentation)])
    return table(["metric", "type", "labels", "description"], rows)


# --- Pages ------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "routes": routes,
    "errors": errors,
    "commands": commands,
    "metrics": lambda: metrics("vllm_obtain"),
    "vllm_metrics": lambda: metrics("vllm:"),
}


def part(name: str) -> str:
    """Write one generated part: of the code, or the result of a benchmark."""
    if write := PARTS.get(name):
        return write().strip()
    return (RESULTS / f"{name}.md").read_text().strip()


def page(path: Path) -> str:
    """Return a page with its generated parts as they should be."""
    return _PART.sub(
        lambda found: f"<!-- generated: {found[1]} -->\n\n{part(found[1])}\n\n<!-- end -->",
        path.read_text(),
    )


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with --check name those that are out of date."""
    stale = {path: new for path in FOLDER.glob("*.md") if (new := page(path)) != path.read_text()}
    for path, new in stale.items():
        name = path.relative_to(ROOT)
        if "--check" in arguments:
            print(f"{name} is out of date; run: python scripts/reference_docs.py")
        else:
            path.write_text(new)
            print(f"{name} written")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
