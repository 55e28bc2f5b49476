"""Results of the engine comparison as table, JSON, Markdown and plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import report
from bench.checks import Check

# Tokens per second and TTFT in milliseconds, written before the first run; see README.md.
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
    """Build a row per level and engine. There are no targets."""
    return [
        Check(
            f"{row['streams']} stream{'s' * (row['streams'] > 1)}, {row['engine']}",
            _result(*EXPECTED[row["engine"], row["streams"]]),
            "",
            _result(row["tokens_per_second"], row["ttft_ms"]["p50"])
            + f" (p95 {row['ttft_ms']['p95']:,.0f})",
        )
        for row in rows
    ]


def write(path: Path, plan: Any, figures: dict[str, Any]) -> None:
    """Print the table and write the files.

    Args:
        path: of the files, without suffix.
        plan: amount of work.
        figures: the results.
    """
    lines = checks(figures["rows"])
    print("Tokens per second over a round, including prefill; TTFT, median (p95)")
    report.show(lines)
    report.write(path.with_suffix(".json"), plan, figures, lines)
    report.markdown(path.with_suffix(".md"), lines)
    with path.with_suffix(".md").open("a") as file:
        file.write(f"\nEngines: {_versions(figures['engines'])}.\n")
    try:
        _draw(path.with_suffix(".png"), figures)
    except ImportError:
        print("No plot: matplotlib is not installed. Run pip install '.[bench]'.")
    print(f"Results: {path}.json")


def _result(rate: float, ttft: float) -> str:
    return f"{rate:,.0f} tok/s, TTFT {ttft:,.0f} ms"


def _versions(engines: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in engines.items())


def _draw(path: Path, figures: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (rates, latencies) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    figure.suptitle(f"Three engines, SmolLM2 135M, on {report.machine()}", fontsize=10)
    for name, colour in _COLOURS.items():
        rows = [row for row in figures["rows"] if row["engine"] == name]
        streams = [row["streams"] for row in rows]
        style = {"marker": "o", "color": colour, "label": name}
        rates.plot(streams, [row["tokens_per_second"] for row in rows], **style)
        latencies.plot(streams, [row["ttft_ms"]["p50"] for row in rows], **style)
    rates.set_title("tokens per second, including prefill", fontsize=10)
    latencies.set_title("median TTFT, ms", fontsize=10)
    latencies.set_yscale("log")
    for axis in (rates, latencies):
        axis.set_xscale("log", base=2)
        ticks = sorted({row["streams"] for row in figures["rows"]})
        axis.set_xticks(ticks, [str(number) for number in ticks])
        axis.set_xlabel("concurrent requests")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
