"""`vllm-obtain bench`: load test of a running service."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_obtain.cli import completion
from vllm_obtain.cli.api_client import ApiKey, AsJson, Service, Url, fail, show_json

if TYPE_CHECKING:
    from vllm_obtain.benchmark.stats import RunStats

_MAX_STREAMS = 1000


def bench(
    name: Annotated[
        str,
        typer.Argument(
            metavar="[NAME]",
            help="Model name (default: the default model).",
            autocompletion=completion.local_models,
        ),
    ] = "",
    streams: Annotated[
        str, typer.Option(help="Concurrent streams, comma-separated; one run for each value.")
    ] = "1,8,32",
    requests: Annotated[
        int | None, typer.Option(min=1, help="Requests per run (default: 4 per stream).")
    ] = None,
    duration: Annotated[
        float, typer.Option(min=0.1, help="Maximum duration of a run in seconds.")
    ] = 30,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Approximate tokens per prompt.")] = 128,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Tokens per completion.")] = 64,
    as_json: AsJson = False,
    url: Url = "",
    key: ApiKey = "",
) -> None:
    """Measure throughput, TTFT and inter-token latency (ITL) of a running service.

    Ctrl-C ends the benchmark early and prints the results so far.
    """
    import asyncio
    from dataclasses import asdict

    from vllm_obtain.benchmark.client import Target
    from vllm_obtain.benchmark.load import BenchmarkError, LoadSpec
    from vllm_obtain.cli.bench_table import measure, show
    from vllm_obtain.errors import SettingsError

    counts = _counts(streams)
    spec = LoadSpec(name, prompt_tokens, answer_tokens)
    results: list[RunStats] = []
    stopped = False
    try:
        service = Service(url, key)
        asyncio.run(
            measure(Target(service.url, service.key), spec, counts, requests, duration, results)
        )
    except (BenchmarkError, SettingsError) as error:
        raise fail(error) from None
    except KeyboardInterrupt:
        stopped = True
    if as_json:
        report = {"url": service.url, "model": name or None, "interrupted": stopped}
        show_json({**report, "runs": [asdict(run) for run in results]})
    else:
        show(results, stopped)
    if stopped:
        raise typer.Exit(130)
    raise typer.Exit(1 if any(run.failed for run in results) else 0)


def _counts(text: str) -> list[int]:
    if not re.fullmatch(r"\d{1,4}(,\d{1,4})*", text):
        raise typer.BadParameter(
            "must be comma-separated integers, such as 1,8,32", param_hint="--streams"
        )
    counts = [int(count) for count in text.split(",")]
    if not all(1 <= count <= _MAX_STREAMS for count in counts):
        raise typer.BadParameter(
            f"each value must be between 1 and {_MAX_STREAMS}", param_hint="--streams"
        )
    return counts
