"""Models on their way here: each by a child process, which ends with us and can be called off.

So are new versions of those that are here; `replacement` puts them in place.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path

from msgspec.structs import replace

from vllm_obtain.errors import InternalError, Overloaded, PullNotFound, ServiceError
from vllm_obtain.fetching.progress import Progress
from vllm_obtain.log import get_logger
from vllm_obtain.messages import Pull, PullState
from vllm_obtain.supervisor.errand import run
from vllm_obtain.supervisor.replacement import Replacement
from vllm_obtain.supervisor.tasks import Tasks

log = get_logger("vllm_obtain.models")

# At once: more only share the line.
MOST = 4
# Those that are over are told of this long, and so many of them.
KEPT_SECONDS, KEPT = 3600.0, 50


class _One:
    """One pull."""

    def __init__(self, asked: Pull) -> None:
        self.asked = asked
        self.state = PullState(
            secrets.token_hex(6), asked.model, asked.name, int(time.time()), task=asked.task
        )
        self.changed = asyncio.Event()
        self.ended: float | None = None
        self.task: asyncio.Task[None] | None = None

    def tell(self, **news: object) -> None:
        """Note what is new, and wake whoever waits for it."""
        self.state = replace(self.state, version=self.state.version + 1, **news)
        self.changed.set()
        self.changed = asyncio.Event()

    def hear(self, said: Progress) -> None:
        """Note how far it is."""
        self.tell(
            status="success" if said.stage == "done" else said.stage,
            name=said.name or self.state.name,
            source=said.source or self.state.source,
            completed=max(said.done, self.state.completed) if said.is_over else said.done,
            total=said.total or self.state.total,
            rate=int(said.rate),
            seconds_left=None if said.left is None else round(said.left, 1),
            detail=said.detail,
        )


class Pulls:
    """All pulls of one supervisor.

    Args:
        folder: for the pid files.
        replacement: puts new versions in place.
    """

    def __init__(self, folder: Path, replacement: Replacement) -> None:
        self._folder = folder
        self._replacement = replacement
        self._known: dict[str, _One] = {}
        self._tasks = Tasks()

    @property
    def all(self) -> list[PullState]:
        """Those that run, and those that ended lately; the newest first."""
        self._forget()
        return [one.state for one in reversed(self._known.values())]

    def begin(self, asked: Pull) -> PullState:
        """Begin to fetch a model, or join the pull that does so already.

        Raises:
            Overloaded: too many run.
        """
        running = [one for one in self._known.values() if one.ended is None]
        for one in running:
            if one.asked == asked:
                return one.state
        if len(running) >= MOST:
            raise Overloaded(
                f"{MOST} models are on their way already. Wait for one of them, or call one off "
                "(DELETE /v1/models/pull/{id}).",
                retry_after=60,
                retry=False,
            )
        self._forget()
        one = _One(asked)
        self._known[one.state.id] = one
        one.task = self._tasks.spawn(self._run(one))
        return one.state

    async def news(self, id_: str, version: int, patience: float) -> PullState:
        """Wait until there is more to tell than somebody has heard.

        Args:
            id_: the pull's.
            version: of the last that was heard.
            patience: seconds after which it is told once more.

        Raises:
            PullNotFound: there is no such pull.
        """
        one = self._find(id_)
        if one.state.version <= version and one.ended is None:
            try:
                async with asyncio.timeout(patience):
                    await one.changed.wait()
            except TimeoutError:
                pass
        return one.state

    async def cancel(self, id_: str) -> PullState:
        """Call a pull off, and wait for its end; one that is over stays what it was.

        Raises:
            PullNotFound: there is no such pull.
        """
        one = self._find(id_)
        if one.task is not None and not one.task.done():
            one.task.cancel()
            await asyncio.wait({one.task})
        return one.state

    async def close(self) -> None:
        """End all of them; what has arrived stays for the next try."""
        if ending := self._tasks.cancel():
            await asyncio.wait(ending)

    def _find(self, id_: str) -> _One:
        one = self._known.get(id_)
        if one is None:
            raise PullNotFound(
                f"There is no pull '{id_[:100]}'. GET /v1/models/pulls lists those that run and "
                "those that ended within the hour."
            )
        return one

    def _forget(self) -> None:
        now = time.monotonic()
        over = [key for key, one in self._known.items() if one.ended is not None]
        for key in over[: max(0, len(over) - KEPT)]:
            del self._known[key]
        for key in over:
            one = self._known.get(key)
            if one is not None and one.ended is not None and now - one.ended > KEPT_SECONDS:
                del self._known[key]

    async def _run(self, one: _One) -> None:
        log.info(one.asked.task, model=one.asked.model, id=one.state.id)
        try:
            await self._do(one)
        except asyncio.CancelledError:
            one.tell(status="cancelled", detail="", rate=0, seconds_left=None)
        except ServiceError as error:
            _failed(one, error)
        except Exception:
            log.exception("a pull failed", id=one.state.id)
            _failed(one, InternalError("The supervisor failed; errors.log has the details."))
        finally:
            one.ended = time.monotonic()
            one.changed.set()
            told = {"model": one.asked.model, "name": one.state.name, "status": one.state.status}
            log.info("pull over", **told, reason=one.state.error)

    async def _do(self, one: _One) -> None:
        asked = one.asked
        if asked.task == "rollback":
            one.hear(await self._replacement.rollback(asked.model, one.hear))
            return

        def heard(said: Progress) -> None:
            if not said.is_over:
                one.hear(said)

        name = f"{asked.task}/{asked.model}"
        pidfile = self._folder / f"efetch-{one.state.id}.pid"
        said = await run(name, pidfile, _arguments(asked), heard)
        if said.stage == "staged":
            said = await self._replacement.put(said, asked.keep, one.hear)
        one.hear(said)


def _failed(one: _One, error: ServiceError) -> None:
    one.hear(Progress.of(error))
    one.tell(error=error.message, error_status=error.status, error_code=error.code or "")


def _arguments(asked: Pull) -> list[str]:
    more = ["--name", asked.name, "--format", asked.format] if asked.task == "pull" else []
    force = ["--force"] if asked.force else []
    return ["--task", asked.task, *more, *force, "--", asked.model]
