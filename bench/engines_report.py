"""The engines side by side: table, JSON, Markdown and plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import report
from bench.checks import Check

# Tokens/s and milliseconds to the first token; written before the first run, see README.md.
EXPECTED = {
    ("llama_cpp", 1): (95, 150),
    ("llama_cpp", 4): (125, 400),
    ("llama_cpp", 8): (145, 800),
    ("llama_cpp", 16): (160, 1500),
    ("llama_cpp", 64): (130, 5000),
    ("mlx", 1): (17, 250),
    ("mlx", 4): (40, 800),
    ("mlx", 8): (58, 1400),
    ("vllm", 1): (32, 100),
    ("vllm", 4): (100, 200),
    ("vllm", 8): (170, 350),
    ("vllm", 16): (260, 600),
    ("vllm", 64): (380, 2000),
}
_COLOURS = {"llama_cpp": "#3b6ea5", "mlx": "#e08a2e", "vllm": "#5a9a5a"}


def checks(rows: list[dict[str, Any]]) -> list[Check]:
    """A line per level and engine; nothing has to be reached."""
    return [
        Check(
            f"{row['streams']} stream{'s' * (row['streams'] > 1)}, {row['engine']}",
            _told(*EXPECTED[row["engine"], row["streams"]]),
            "",
            _told(row["tokens_per_second"], row["first_token_ms"]["p50"])
            + f" (p95 {row['first_token_ms']['p95']:,.0f})",
        )
        for row in rows
    ]


def write(path: Path, plan: Any, figures: dict[str, Any]) -> None:
    """Print the table, and write all of it.

    Args:
        path: without its ending.
        plan: what was done.
        figures: what was seen.
    """
    lines = checks(figures["rows"])
    print("tokens/s over a round, prompts included; time to the first token, median (p95)")
    report.show(lines)
    report.write(path.with_suffix(".json"), plan, figures, lines)
    report.markdown(path.with_suffix(".md"), lines)
    with path.with_suffix(".md").open("a") as file:
        file.write(f"\nEngines: {_named(figures['engines'])}.\n")
    try:
        _draw(path.with_suffix(".png"), figures)
    except ImportError:
        print("No plot: matplotlib is not installed (pip install '.[bench]').")
    print(f"Written: {path}.json")


def _told(rate: float, wait: float) -> str:
    return f"{rate:,.0f} tokens/s, {wait:,.0f} ms"


def _named(engines: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in engines.items())


def _draw(path: Path, figures: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (rates, waits) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    figure.suptitle(f"Three engines, SmolLM2 135M, on {report.machine()}", fontsize=10)
    for name, colour in _COLOURS.items():
        rows = [row for row in figures["rows"] if row["engine"] == name]
        streams = [row["streams"] for row in rows]
        style = {"marker": "o", "color": colour, "label": name}
        rates.plot(streams, [row["tokens_per_second"] for row in rows], **style)
        waits.plot(streams, [row["first_token_ms"]["p50"] for row in rows], **style)
    rates.set_title("tokens per second, prompts included", fontsize=10)
    waits.set_title("median time to first token, ms", fontsize=10)
    waits.set_yscale("log")
    for axis in (rates, waits):
        axis.set_xscale("log", base=2)
        ticks = sorted({row["streams"] for row in figures["rows"]})
        axis.set_xticks(ticks, [str(number) for number in ticks])
        axis.set_xlabel("requests at once")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
