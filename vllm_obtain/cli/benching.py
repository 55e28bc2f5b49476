"""`vllm-obtain bench`: how fast a running service answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from vllm_obtain.cli import names
from vllm_obtain.cli.client import ApiKey, AsJson, Service, Url, fail, show_json

if TYPE_CHECKING:
    from vllm_obtain.measuring.figures import Figures

_MOST_STREAMS = 1000


def bench(
    name: Annotated[
        str,
        typer.Argument(
            metavar="[NAME]",
            help="Of the model; else the default one.",
            autocompletion=names.here,
        ),
    ] = "",
    streams: Annotated[str, typer.Option(help="How many at once, one run for each.")] = "1,8,32",
    requests: Annotated[
        int | None, typer.Option(min=1, help="Of each run in all; else 4 for each stream.")
    ] = None,
    duration: Annotated[
        float, typer.Option(min=0.1, help="Seconds after which a run is cut off.")
    ] = 30,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Of each prompt, about.")] = 128,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Of each answer.")] = 64,
    as_json: AsJson = False,
    url: Url = "",
    key: ApiKey = "",
) -> None:
    """Measure a running service: tokens per second, first tokens, pauses. Ctrl-C ends it early."""
    import asyncio
    from dataclasses import asdict

    from vllm_obtain.cli.bench_table import measure, show
    from vllm_obtain.errors import SettingsError
    from vllm_obtain.measuring.client import Target
    from vllm_obtain.measuring.load import Unanswered, Wish

    counts = _counts(streams)
    wish = Wish(name, prompt_tokens, answer_tokens)
    found: list[Figures] = []
    stopped = False
    try:
        service = Service(url, key)
        asyncio.run(
            measure(Target(service.url, service.key), wish, counts, requests, duration, found)
        )
    except (Unanswered, SettingsError) as error:
        raise fail(error) from None
    except KeyboardInterrupt:
        stopped = True
    if as_json:
        told = {"url": service.url, "model": name or None, "interrupted": stopped}
        show_json({**told, "runs": [asdict(each) for each in found]})
    else:
        show(found, stopped)
    if stopped:
        raise typer.Exit(130)
    raise typer.Exit(1 if any(each.failed for each in found) else 0)


def _counts(text: str) -> list[int]:
    if not re.fullmatch(r"\d{1,4}(,\d{1,4})*", text):
        raise typer.BadParameter("write it as 1,8,32", param_hint="--streams")
    counts = [int(each) for each in text.split(",")]
    if not all(1 <= each <= _MOST_STREAMS for each in counts):
        raise typer.BadParameter(f"1 to {_MOST_STREAMS} streams", param_hint="--streams")
    return counts
