"""Plots of the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.checks import ADDED_MS, RATIO

_BLUE, _ORANGE, _GREY, _RED = "#3b6ea5", "#e08a2e", "#9a9a9a", "#b03030"
_COLOURS = {"direct": _GREY, "nginx": _ORANGE, "gateway": _BLUE}


def draw(path: Path, figures: dict[str, Any], machine: str) -> None:
    """Plot throughput, added TTFT and relay rates side by side.

    Args:
        path: of the PNG file.
        figures: as in the JSON file.
        machine: description for the title.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 4, figsize=(15, 4.2), layout="constrained")
    figure.suptitle(f"Overhead and relay capacity of the gateway: {machine}")
    _ratios(axes[0], figures["overhead"]["levels"])
    _plot_added_ttft(axes[1], figures["overhead"]["levels"])
    _rates(axes[2], figures["relay"], "plain_per_second", "requests / s without streaming")
    _rates(axes[3], figures["relay"], "chunks_per_second", "streamed chunks / s")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _ratios(axis: Any, levels: list[dict[str, Any]]) -> None:
    positions = range(len(levels))
    medians = [level["ratio"]["median"] for level in levels]
    below = [level["ratio"]["median"] - level["ratio"]["low"] for level in levels]
    above = [level["ratio"]["high"] - level["ratio"]["median"] for level in levels]
    axis.errorbar(positions, medians, [below, above], fmt="o", color=_BLUE, capsize=5)
    axis.axhline(RATIO, color=_RED, linestyle="--", label=f"target {RATIO}")
    axis.set_ylim(min(0.9, *medians) - 0.02, max(1.02, *medians) + 0.02)
    axis.set_xlim(-0.5, len(levels) - 0.5)
    _levels(axis, levels, "throughput ratio, gateway vs. direct")


def _plot_added_ttft(axis: Any, levels: list[dict[str, Any]]) -> None:
    for shift, name, colour in ((-0.2, "p50", _BLUE), (0.2, "p95", _GREY)):
        heights = [level["added_ttft_ms"][name] for level in levels]
        bars = axis.bar([n + shift for n in range(len(levels))], heights, 0.38, color=colour)
        axis.bar_label(bars, fmt="%.1f")
        bars.set_label(name)
    axis.axhline(ADDED_MS, color=_RED, linestyle="--", label=f"target for p50: {ADDED_MS:g} ms")
    _levels(axis, levels, "added TTFT, ms")


def _levels(axis: Any, levels: list[dict[str, Any]], title: str) -> None:
    axis.set_xticks(range(len(levels)), [str(level["streams"]) for level in levels])
    axis.set_xlabel("streams")
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=8)


def _rates(axis: Any, relay: dict[str, Any], metric: str, title: str) -> None:
    targets = [name for name in _COLOURS if name in relay]
    rates = [relay[target][metric] for target in targets]
    bars = axis.bar(targets, rates, color=[_COLOURS[target] for target in targets])
    axis.bar_label(bars, labels=[f"{rate:,.0f}" for rate in rates])
    axis.set_yscale("log")
    axis.set_ylim(min(rates) / 3, max(rates) * 3)
    axis.set_title(f"{title} (stub engine, log scale)", fontsize=8.5)
