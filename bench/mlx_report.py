"""Targets of the MLX benchmark, and its results as table, JSON, Markdown and plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import report
from bench.checks import Check

# Written before the first run; README.md explains them.
EXPECTED_CPU = {"1": "1.0", "8": "1.2", "sampled": "1.2", "seeded": "5", "pause": "0.15"}
EXPECTED_GPU = {"1": "1.8", "8": "3.5", "32": "1.9", "sampled": "3", "seeded": "10", "pause": "0.3"}
EXPECTED_LIBRARY = {"1": "0.95", "8": "0.95", "32": "0.9"}


def checks(figures: dict[str, Any], gpu: bool) -> list[Check]:
    """Check the figures against the targets.

    Args:
        figures: result of `Bench.measure`.
        gpu: whether to use the targets for a GPU.
    """
    expected = EXPECTED_GPU if gpu else EXPECTED_CPU
    streams = [
        line
        for number, case in figures["streams"].items()
        for line in _streams(number, case, expected, gpu)
    ]
    return [*streams, *_check_samples(figures, expected), _pause(figures["long_prompt"], expected)]


def _streams(
    streams: str, case: dict[str, Any], expected: dict[str, str], gpu: bool
) -> list[Check]:
    name = f"{streams} stream{'s' * (streams != '1')}"
    server, library = _rates(case, "mlx_lm"), _rates(case, "library")
    ttft = f"{case['own']['ttft_ms']:.0f} ms ({case['mlx_lm']['ttft_ms']:.0f} ms)"
    return [
        Check(
            f"{name}: tok/s, this server / mlx_lm.server",
            expected.get(streams, ""),
            "" if gpu else ">= 1.0",
            server[0],
            None if gpu else server[1] >= 1.0,
        ),
        Check(
            f"{name}: tok/s, this server / mlx-lm's loops",
            EXPECTED_LIBRARY.get(streams, ""),
            ">= 0.9" if gpu else "",
            library[0],
            library[1] >= 0.9 if gpu else None,
        ),
        Check(f"{name}: TTFT, median (mlx_lm.server)", "", "", ttft),
    ]


def _check_samples(figures: dict[str, Any], expected: dict[str, str]) -> list[Check]:
    sampled, seeded = figures["sampled"], figures["seeded"]
    same = seeded["ratio"]["tokens_per_second_to_sampled"]
    metric = "sampling: tok/s, this server / mlx_lm.server"
    return [
        Check(metric, expected["sampled"], "", _rates(sampled, "mlx_lm")[0]),
        Check(f"{metric}, with seeds", expected["seeded"], "", _rates(seeded, "mlx_lm")[0]),
        Check(
            "this server: tok/s with seeds / without", "1.0", ">= 0.95", f"{same:.2f}", same >= 0.95
        ),
    ]


def _pause(case: dict[str, Any], expected: dict[str, str]) -> Check:
    ratio = case["ratio"]["pause_ms_to_mlx_lm"]
    result = f"{ratio:.2f} ({case['own']['pause_ms']:.0f} / {case['mlx_lm']['pause_ms']:.0f} ms)"
    metric = "long prompt during streams: their longest pause, this server / mlx_lm.server"
    return Check(metric, expected["pause"], "<= 0.3", result, ratio <= 0.3)


def _rates(case: dict[str, Any], other: str) -> tuple[str, float]:
    ratio = case["ratio"][f"tokens_per_second_to_{other}"]
    own, others = (case[side]["tokens_per_second"] for side in ("own", other))
    return f"{ratio:.2f} ({own:,.1f} / {others:,.1f})", ratio


def write(path: Path, plan: dict[str, Any], figures: dict[str, Any], checks: list[Check]) -> None:
    """Print the table and write the files.

    Args:
        path: of the files, without suffix.
        plan: amount of work.
        figures: the results.
        checks: the checks.
    """
    report.show(checks)
    report.write(path.with_suffix(".json"), plan, figures, checks)
    report.markdown(path.with_suffix(".md"), checks)
    try:
        _draw(path.with_suffix(".png"), figures)
    except ImportError:
        print("No plot: matplotlib is not installed. Run pip install '.[bench]'.")
    print(f"Results: {path}.json")


def _draw(path: Path, figures: dict[str, Any]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    cases = {**{f"{n} streams": c for n, c in figures["streams"].items()}}
    cases |= {"sampled": figures["sampled"], "seeded": figures["seeded"]}
    colours = {"mlx_lm": "#e08a2e", "library": "#9a9a9a", "own": "#3b6ea5"}
    labels = {"mlx_lm": "mlx_lm.server", "library": "mlx-lm's loops", "own": "this server"}
    figure, (rates, pauses) = pyplot.subplots(
        1, 2, figsize=(11, 4), width_ratios=[4, 1], layout="constrained"
    )
    figure.suptitle(f"MLX: {figures['model']} on {report.machine()}", fontsize=10)
    for shift, (side, colour) in enumerate(colours.items()):
        heights = [c.get(side, {}).get("tokens_per_second", 0) for c in cases.values()]
        positions = [n + (shift - 1) * 0.27 for n in range(len(cases))]
        bars = rates.bar(positions, heights, 0.26, color=colour, label=labels[side])
        rates.bar_label(bars, labels=[f"{h:,.0f}" if h else "" for h in heights], fontsize=8)
    rates.set_xticks(range(len(cases)), list(cases))
    rates.set_title("tokens per second", fontsize=10)
    rates.legend(fontsize=8)
    sides = ["mlx_lm", "own"]
    heights = [figures["long_prompt"][side]["pause_ms"] for side in sides]
    bars = pauses.bar([labels[s] for s in sides], heights, color=[colours[s] for s in sides])
    pauses.bar_label(bars, fmt="%.0f", fontsize=8)
    pauses.set_title("longest pause, ms (long prompt)", fontsize=9)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
