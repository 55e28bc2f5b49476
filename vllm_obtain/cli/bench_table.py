"""Measuring a service run by run, and the table of it."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from vllm_obtain.measuring.client import Target
from vllm_obtain.measuring.figures import Answer, Figures, Spread, figures
from vllm_obtain.measuring.load import Wish, run, warmed

# Of each stream, unless somebody says otherwise.
_REQUESTS = 4


async def measure(
    target: Target,
    wish: Wish,
    counts: list[int],
    requests: int | None,
    duration: float,
    found: list[Figures],
) -> None:
    """Measure.

    Args:
        target: whom to ask.
        wish: what each request asks for.
        counts: of streams; a run for each.
        requests: of each run, None for some of each stream.
        duration: seconds after which a run is cut off.
        found: takes the figures of each run, also when this is cancelled.

    Raises:
        Unanswered: the service answers no chat.
    """
    with Console(stderr=True).status("Loading the model…") as status:
        wish = await warmed(target, wish)
        for count in counts:
            answers: list[Answer] = []
            most = requests or _REQUESTS * count

            def tell(count: int = count, most: int = most, got: list[Answer] = answers) -> None:
                done = sum(each.ended > 0 for each in got)
                status.update(f"{count} streams: {done} of {most} requests")

            tell()
            try:
                await run(target, wish, count, most, duration, answers, tell)
            finally:  # what was measured until Ctrl-C is told too
                if ended := [each for each in answers if each.ended]:
                    found.append(figures(count, ended))


def show(found: list[Figures], stopped: bool) -> None:
    """Print the figures.

    Args:
        found: of each run.
        stopped: whether somebody ended it early.
    """
    out = Console(highlight=False)
    heads = ("streams", "answers", "cut", "failed", "tokens/s", "of one", "first token", "between")
    columns = (Column(head, no_wrap=True, justify="right") for head in heads)
    table = Table(*columns, box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for each in found:
        one = each.tokens_per_second_of_one
        table.add_row(
            *(str(each.streams), str(each.answers), str(each.cut), str(each.failed)),
            f"{each.tokens_per_second:,.1f}",
            "" if one is None else f"{one:,.1f}",
            _milliseconds(each.first_token_ms),
            _milliseconds(each.between_tokens_ms),
        )
    if found:
        out.print(table)
        out.print("Times are milliseconds, p50 / p95: to the first token, and between two tokens.")
    for each in found:
        if each.answers:
            sizes = f"prompts have {each.prompt_tokens:g} tokens, answers {each.answer_tokens:g}"
            out.print(f"{each.streams} streams: {sizes}, on average")
    for each in found:
        for error, count in each.errors.items():
            out.print(f"{each.streams} streams, {count} times: {error}", markup=False)
    if stopped:
        out.print("Stopped; what was measured until then is above." if found else "Stopped.")


def _milliseconds(spread: Spread | None) -> str:
    if spread is None:
        return ""
    return " / ".join(f"{each:,.{0 if each >= 100 else 1}f}" for each in (spread.p50, spread.p95))
