"""`update`: what the sources have now, and bringing it here or elsewhere."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
import typer
from rich.console import Console
from rich.table import Column, Table

from vllm_obtain.cli.client import Refused, Service, fail, show_json
from vllm_obtain.cli.pulling import Screen, shown
from vllm_obtain.errors import ServiceError, SettingsError
from vllm_obtain.fetching import updating
from vllm_obtain.fetching.comparing import Change, look
from vllm_obtain.fetching.progress import CURRENT
from vllm_obtain.messages import Pull, PullNews, PullState
from vllm_obtain.settings import Settings, load_settings
from vllm_obtain.supervisor import runtime
from vllm_obtain.supervisor.client import Line

# Of --check, when there is something to update and every source answered.
AVAILABLE = 10
_QUIET = 5.0


class Here:
    """The models of this machine. A service that runs here replaces those that it may have loaded.

    Args:
        settings: the owner's.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def look(self, names: Sequence[str]) -> list[Change]:
        """Compare models with their sources."""
        return look(self._settings, names)

    def act(self, asked: Pull) -> str:
        """Update a model, or roll it back.

        Returns:
            What there is to say of it beside that it is done.
        """
        with Screen() as screen:
            try:
                line = self._line()
            except OSError:  # no service runs, so nobody uses it
                try:
                    return self._alone(asked, screen)
                except _Started as started:
                    line = started.line
            with line:
                return _followed(line, asked, screen)

    def _line(self) -> Line:
        return Line(runtime.folder(self._settings.port) / runtime.CONTROL)

    def _require_no_service(self) -> None:
        # A download takes its time. Who loads the model by now must not get half of each version.
        with contextlib.suppress(OSError):
            raise _Started(self._line())

    def _alone(self, asked: Pull, screen: Screen) -> str:
        if asked.task == "rollback":
            updating.rollback(asked.model, self._settings)
        elif not updating.update(
            asked.model, self._settings, screen.show, asked.keep, self._require_no_service
        ):
            return CURRENT
        return ""


class _Started(Exception):
    """A service has started meanwhile; what was fetched is its to put in place."""

    def __init__(self, line: Line) -> None:
        self.line = line


class There:
    """The models of a service elsewhere.

    Args:
        service: it.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    def look(self, names: Sequence[str]) -> list[Change]:
        """Compare models with their sources."""
        asked = [f"?model={quote(name, safe='')}" for name in names] or [""]
        answers = [self._service.ask("GET", f"/v1/models/updates{each}") for each in asked]
        return [msgspec.convert(each, Change) for answer in answers for each in answer["data"]]

    def act(self, asked: Pull) -> str:
        """Update a model, or roll it back; as in `Here`."""
        body: dict[str, Any] = {"model": asked.model}
        if asked.task == "update":
            body["keep"] = asked.keep
        last: dict[str, Any] = {}
        with Screen() as screen:
            for last in self._service.events(f"/v1/models/{asked.task}", body):
                screen.show(shown(last))
        if last.get("status") != "success":
            raise Refused(last.get("error", {}).get("message") or "It was called off.")
        return str(last.get("detail", ""))


def _followed(line: Line, asked: Pull, screen: Screen) -> str:
    state = line.ask(asked, PullState, 30)
    while not state.is_over:
        screen.show(shown(msgspec.to_builtins(state)))
        state = line.ask(PullNews(state.id, state.version, _QUIET), PullState, _QUIET + 30)
    if state.status != "success":
        raise Refused(state.error or "It was called off.")
    return state.detail


def run(place: Here | There, names: Sequence[str], check: bool, keep: bool, as_json: bool) -> int:
    """Compare, say what would change, and change it unless it is only a check.

    Args:
        place: whose models.
        names: which ones; none for all that were fetched.
        check: whether nothing is changed.
        keep: whether versions before are kept.
        as_json: whether programs read what is printed.

    Returns:
        The exit code.
    """
    changes = place.look(names)
    if check or not as_json:
        show(changes, as_json)
    failed = any(each.state == "failed" for each in changes)
    due = [each for each in changes if each.state == "update"]
    if check:
        return 1 if failed else AVAILABLE if due else 0
    done = [_done(place, each, keep, as_json) for each in due]
    if as_json:
        rest = [each for each in changes if each not in due]
        show_json([*done, *map(msgspec.to_builtins, rest)])
    return 1 if failed or any(each["state"] == "failed" for each in done) else 0


def _done(place: Here | There, change: Change, keep: bool, as_json: bool) -> dict[str, Any]:
    """Update one; what goes wrong with it is told, and the others get their turn."""
    told: dict[str, Any] = msgspec.to_builtins(change)
    try:
        place.act(Pull(change.name, task="update", keep=keep))
    except (ServiceError, Refused) as error:
        print(f"{change.name}: {error}", file=sys.stderr)
        return {**told, "state": "failed", "error": str(error)}
    if not as_json:
        typer.echo(f"{change.name} is updated to {_short(change.there)}.")
    return {**told, "state": "updated"}


def show(changes: Sequence[Change], as_json: bool) -> None:
    """Print what would change."""
    if as_json:
        show_json(msgspec.to_builtins(list(changes)))
        return
    out = Console(highlight=False)
    if not changes:
        out.print("Nothing here was fetched by `pull`.")
        return
    table = Table(Column("name", no_wrap=True), "state", "here", "there", "files", "download")
    for each in changes:
        table.add_row(
            *(each.name, each.state, _short(each.here), _short(each.there)),
            *(_files(each), _size(each)),
        )
    out.print(table)
    for each in changes:
        if each.error:
            out.print(f"{each.name}: {each.error}", markup=False, soft_wrap=True)


def _files(change: Change) -> str:
    counts: dict[str, int] = {}
    for file in change.files:
        counts[file.change] = counts.get(file.change, 0) + 1
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def _size(change: Change) -> str:
    if change.state != "update":
        return ""
    if change.download is None:
        return "unknown"
    size = change.download
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def _short(revision: str) -> str:
    """A commit, or a checksum, so that people can tell two apart."""
    plain = revision.strip('"')
    return plain[:12] if len(plain) >= 40 else plain[:40]


def main(
    names: Sequence[str],
    check: bool,
    rollback: str,
    keep: bool,
    as_json: bool,
    service: Callable[[], Service] | None,
) -> typer.Exit:
    """What the command does; arguments as its own.

    Args:
        names: which models.
        check: whether nothing is changed.
        rollback: the model whose version before is put back, empty for none.
        keep: whether versions before are kept.
        as_json: whether programs read what is printed.
        service: makes the service elsewhere, None for this machine.

    Returns:
        How it ends.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        place = There(service()) if service is not None else Here(load_settings())
        if not rollback:
            return typer.Exit(run(place, names, check, keep, as_json))
        place.act(Pull(rollback, task="rollback"))
        if not as_json:
            typer.echo(f"{rollback} is what it was before; the same command undoes that.")
    except (ServiceError, SettingsError, Refused, OSError) as error:
        return fail(error)
    except KeyboardInterrupt:
        print("What has arrived is kept; the models are as they were.", file=sys.stderr)
        return typer.Exit(130)
    return typer.Exit(0)
