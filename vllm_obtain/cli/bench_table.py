"""Runs of `vllm-obtain bench` and the table of their results."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from vllm_obtain.benchmark.client import Target
from vllm_obtain.benchmark.load import LoadSpec, run, warm_up
from vllm_obtain.benchmark.stats import Percentiles, RequestResult, RunStats, summarize

_REQUESTS_PER_STREAM = 4


async def measure(
    target: Target,
    spec: LoadSpec,
    counts: list[int],
    requests: int | None,
    duration: float,
    results: list[RunStats],
) -> None:
    """Run the benchmark once for each number of streams.

    Args:
        target: the service.
        spec: model, prompt and completion length of each request.
        counts: numbers of concurrent streams.
        requests: requests per run; None for a fixed number per stream.
        duration: maximum seconds per run.
        results: receives the statistics of each run, also when this coroutine is cancelled.

    Raises:
        BenchmarkError: the service does not complete a chat request.
    """
    with Console(stderr=True).status("Loading the model…") as status:
        spec = await warm_up(target, spec)
        for count in counts:
            responses: list[RequestResult] = []
            total = requests or _REQUESTS_PER_STREAM * count

            def show_progress(
                count: int = count, total: int = total, responses: list[RequestResult] = responses
            ) -> None:
                done = sum(result.ended > 0 for result in responses)
                status.update(f"{count} streams: {done} of {total} requests")

            show_progress()
            try:
                await run(target, spec, count, total, duration, responses, show_progress)
            finally:  # Ctrl-C reports the results so far
                if ended := [result for result in responses if result.ended]:
                    results.append(summarize(count, ended))


def show(results: list[RunStats], stopped: bool) -> None:
    """Print the results as a table.

    Args:
        results: statistics of each run.
        stopped: whether the benchmark was interrupted.
    """
    out = Console(highlight=False)
    heads = (
        *("streams", "completed", "timed\nout", "failed", "tok/s"),
        *("tok/s per\nstream", "TTFT (ms)\np50 / p95", "ITL (ms)\np50 / p95"),
    )
    columns = (Column(head, no_wrap=True, justify="right") for head in heads)
    table = Table(*columns, box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for run_stats in results:
        rate = run_stats.tokens_per_second_of_one
        table.add_row(
            *(str(run_stats.streams), str(run_stats.answers)),
            *(str(run_stats.cut), str(run_stats.failed)),
            f"{run_stats.tokens_per_second:,.1f}",
            "" if rate is None else f"{rate:,.1f}",
            _milliseconds(run_stats.first_token_ms),
            _milliseconds(run_stats.between_tokens_ms),
        )
    if results:
        out.print(table)
        out.print("TTFT: time to first token. ITL: inter-token latency.")
    for run_stats in results:
        if run_stats.answers:
            prompt, completion = run_stats.prompt_tokens, run_stats.answer_tokens
            sizes = f"{prompt:g} prompt tokens, {completion:g} completion tokens"
            out.print(f"{run_stats.streams} streams: {sizes} on average")
    for run_stats in results:
        for error, count in run_stats.errors.items():
            out.print(f"{run_stats.streams} streams, {count} errors: {error}", markup=False)
    if stopped:
        out.print("Interrupted. The results above are incomplete." if results else "Interrupted.")


def _milliseconds(percentiles: Percentiles | None) -> str:
    if percentiles is None:
        return ""
    values = (percentiles.p50, percentiles.p95)
    return " / ".join(f"{value:,.{0 if value >= 100 else 1}f}" for value in values)
