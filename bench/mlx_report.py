"""What the MLX benchmark has to reach, and its results as table, JSON, Markdown and plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import report
from bench.checks import Check

# Written before the first run; README.md says what they rest on.
EXPECTED_CPU = {"1": "1.0", "8": "1.2", "drawn": "1.2", "seeded": "5", "gap": "0.15"}
EXPECTED_GPU = {"1": "1.8", "8": "3.5", "32": "1.9", "drawn": "3", "seeded": "10", "gap": "0.3"}
EXPECTED_LIBRARY = {"1": "0.95", "8": "0.95", "32": "0.9"}


def checks(figures: dict[str, Any], gpu: bool) -> list[Check]:
    """Judge the figures.

    Args:
        figures: as `Bench.measure` returns them.
        gpu: whether the targets are those for a GPU.
    """
    expected = EXPECTED_GPU if gpu else EXPECTED_CPU
    told = [
        line
        for streams, case in figures["streams"].items()
        for line in _streams(streams, case, expected, gpu)
    ]
    return [*told, *_drawn(figures, expected), _gap(figures["intrusion"], expected)]


def _streams(
    streams: str, case: dict[str, Any], expected: dict[str, str], gpu: bool
) -> list[Check]:
    name = f"{streams} stream{'s' * (streams != '1')}"
    server, library = _rates(case, "theirs"), _rates(case, "library")
    wait = f"{case['ours']['first_ms']:.0f} ms ({case['theirs']['first_ms']:.0f} ms)"
    return [
        Check(
            f"{name}: tokens/s, ours / mlx_lm.server",
            expected.get(streams, ""),
            "" if gpu else ">= 1.0",
            server[0],
            None if gpu else server[1] >= 1.0,
        ),
        Check(
            f"{name}: tokens/s, ours / the library's loop",
            EXPECTED_LIBRARY.get(streams, ""),
            ">= 0.9" if gpu else "",
            library[0],
            library[1] >= 0.9 if gpu else None,
        ),
        Check(f"{name}: time to first token, median (mlx_lm.server's)", "", "", wait),
    ]


def _drawn(figures: dict[str, Any], expected: dict[str, str]) -> list[Check]:
    drawn, seeded = figures["drawn"], figures["seeded"]
    same = seeded["ratio"]["tokens_per_second_to_drawn"]
    what = "drawn: tokens/s, ours / mlx_lm.server"
    return [
        Check(what, expected["drawn"], "", _rates(drawn, "theirs")[0]),
        Check(f"{what}, a seed in each", expected["seeded"], "", _rates(seeded, "theirs")[0]),
        Check("ours: tokens/s with seeds / without", "1.0", ">= 0.95", f"{same:.2f}", same >= 0.95),
    ]


def _gap(case: dict[str, Any], expected: dict[str, str]) -> Check:
    ratio = case["ratio"]["gap_ms_to_theirs"]
    seen = f"{ratio:.2f} ({case['ours']['gap_ms']:.0f} / {case['theirs']['gap_ms']:.0f} ms)"
    what = "a long prompt among running streams: their longest pause, ours / mlx_lm.server"
    return Check(what, expected["gap"], "<= 0.3", seen, ratio <= 0.3)


def _rates(case: dict[str, Any], other: str) -> tuple[str, float]:
    ratio = case["ratio"][f"tokens_per_second_to_{other}"]
    ours, others = (case[side]["tokens_per_second"] for side in ("ours", other))
    return f"{ratio:.2f} ({ours:,.1f} / {others:,.1f})", ratio


def write(path: Path, plan: dict[str, Any], figures: dict[str, Any], checks: list[Check]) -> None:
    """Print the table, and write all of it.

    Args:
        path: without its ending.
        plan: what was done.
        figures: what was seen.
        checks: what to think of it.
    """
    report.show(checks)
    report.write(path.with_suffix(".json"), plan, figures, checks)
    report.markdown(path.with_suffix(".md"), checks)
    try:
        _draw(path.with_suffix(".png"), figures)
    except ImportError:
        print("No plot: matplotlib is not installed (pip install '.[bench]').")
    print(f"Written: {path}.json")


def _draw(path: Path, figures: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    cases = {**{f"{n} streams": c for n, c in figures["streams"].items()}}
    cases |= {"drawn": figures["drawn"], "seeded": figures["seeded"]}
    colours = {"theirs": "#e08a2e", "library": "#9a9a9a", "ours": "#3b6ea5"}
    labels = {"theirs": "mlx_lm.server", "library": "mlx-lm's loops", "ours": "our server"}
    figure, (rates, gaps) = pyplot.subplots(
        1, 2, figsize=(11, 4), width_ratios=[4, 1], layout="constrained"
    )
    figure.suptitle(f"MLX: {figures['model']} on {report.machine()}", fontsize=10)
    for shift, (side, colour) in enumerate(colours.items()):
        heights = [c.get(side, {}).get("tokens_per_second", 0) for c in cases.values()]
        places = [n + (shift - 1) * 0.27 for n in range(len(cases))]
        bars = rates.bar(places, heights, 0.26, color=colour, label=labels[side])
        rates.bar_label(bars, labels=[f"{h:,.0f}" if h else "" for h in heights], fontsize=8)
    rates.set_xticks(range(len(cases)), list(cases))
    rates.set_title("tokens per second", fontsize=10)
    rates.legend(fontsize=8)
    sides = ["theirs", "ours"]
    heights = [figures["intrusion"][side]["gap_ms"] for side in sides]
    bars = gaps.bar([labels[s] for s in sides], heights, color=[colours[s] for s in sides])
    gaps.bar_label(bars, fmt="%.0f", fontsize=8)
    gaps.set_title("longest pause, a long prompt comes, ms", fontsize=9)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
