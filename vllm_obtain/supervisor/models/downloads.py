"""Downloads and updates of models, each in a child process that can be cancelled.

`version_update` installs new revisions of downloaded models.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from pathlib import Path

from msgspec.structs import replace

from vllm_obtain.control.messages import (
    CancelDownload,
    DownloadList,
    DownloadState,
    ListDownloads,
    StartDownload,
    WaitForDownload,
)
from vllm_obtain.errors import InternalError, Overloaded, PullNotFound, ServiceError
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.models.progress import Progress
from vllm_obtain.supervisor.background_tasks import BackgroundTasks
from vllm_obtain.supervisor.child_task import run_child
from vllm_obtain.supervisor.handlers import Handlers
from vllm_obtain.supervisor.models.version_update import VersionUpdate

log = get_logger("vllm_obtain.models")

COMMAND = [sys.executable, "-m", "vllm_obtain.download"]
# Maximum number of downloads at the same time; more would only share the bandwidth.
MAX_RUNNING = 4
# How long ended downloads are listed, in seconds, and how many of them.
HISTORY_SECONDS, MAX_ENDED = 3600.0, 50


class _Download:
    """One download."""

    def __init__(self, request: StartDownload) -> None:
        self.request = request
        self.state = DownloadState(
            secrets.token_hex(6), request.model, request.name, int(time.time()), task=request.task
        )
        self.changed = asyncio.Event()
        self.ended: float | None = None
        self.task: asyncio.Task[None] | None = None

    def update(self, **wait_for_change: object) -> None:
        """Update the state, and wake up the clients that wait for a change."""
        self.state = replace(self.state, version=self.state.version + 1, **wait_for_change)
        self.changed.set()
        self.changed = asyncio.Event()

    def record(self, progress: Progress) -> None:
        self.update(
            status="success" if progress.stage == "done" else progress.stage,
            name=progress.name or self.state.name,
            source=progress.source or self.state.source,
            completed=max(progress.done, self.state.completed)
            if progress.is_over
            else progress.done,
            total=progress.total or self.state.total,
            rate=int(progress.rate),
            seconds_left=None if progress.left is None else round(progress.left, 1),
            detail=progress.detail,
        )


class Downloads:
    """All downloads of one supervisor.

    Args:
        folder: folder for pid files.
        version_update: installs new revisions.
    """

    def __init__(self, folder: Path, version_update: VersionUpdate) -> None:
        self._folder = folder
        self._version_update = version_update
        self._downloads: dict[str, _Download] = {}
        self._tasks = BackgroundTasks()
        self.handlers: Handlers = {
            StartDownload: self.start,
            WaitForDownload: self.wait_for_change,
            CancelDownload: lambda message: self.cancel(message.id),
            ListDownloads: lambda _: DownloadList(self.all),
        }

    @property
    def all(self) -> list[DownloadState]:
        """The running downloads, and those that ended recently; the newest first."""
        self._drop_ended()
        return [download.state for download in reversed(self._downloads.values())]

    def start(self, request: StartDownload) -> DownloadState:
        """Start a download, or join an identical one.

        Raises:
            Overloaded: too many downloads are running.
        """
        running = [download for download in self._downloads.values() if download.ended is None]
        for download in running:
            if download.request == request:
                return download.state
        if len(running) >= MAX_RUNNING:
            raise Overloaded(
                f"{MAX_RUNNING} downloads are running, the maximum. Wait until one has ended, or "
                "cancel one (DELETE /v1/models/pull/{id}).",
                retry_after=60,
                retry=False,
            )
        self._drop_ended()
        download = _Download(request)
        self._downloads[download.state.id] = download
        download.task = self._tasks.spawn(self._run(download))
        return download.state

    async def wait_for_change(self, request: WaitForDownload) -> DownloadState:
        """Wait until the state of a download changes.

        Raises:
            PullNotFound: the download does not exist.
        """
        download = self._find(request.id)
        if download.state.version <= request.version and download.ended is None:
            try:
                async with asyncio.timeout(request.patience):
                    await download.changed.wait()
            except TimeoutError:
                pass
        return download.state

    async def cancel(self, id_: str) -> DownloadState:
        """Cancel a download and wait for its end. An ended one does not change.

        Raises:
            PullNotFound: the download does not exist.
        """
        download = self._find(id_)
        if download.task is not None and not download.task.done():
            download.task.cancel()
            await asyncio.wait({download.task})
        return download.state

    async def close(self) -> None:
        """Cancel all downloads. Partial files are kept for the next attempt."""
        if ending := self._tasks.cancel():
            await asyncio.wait(ending)

    def _find(self, id_: str) -> _Download:
        download = self._downloads.get(id_)
        if download is None:
            raise PullNotFound(
                f"Download '{id_[:100]}' was not found. GET /v1/models/pulls lists running "
                "downloads and those that ended within the last hour."
            )
        return download

    def _drop_ended(self) -> None:
        now = time.monotonic()
        ended = [key for key, download in self._downloads.items() if download.ended is not None]
        for key in ended[: max(0, len(ended) - MAX_ENDED)]:
            del self._downloads[key]
        for key in ended:
            download = self._downloads.get(key)
            if (
                download is not None
                and download.ended is not None
                and now - download.ended > HISTORY_SECONDS
            ):
                del self._downloads[key]

    async def _run(self, download: _Download) -> None:
        log.info(
            "download started",
            task=download.request.task,
            model=download.request.model,
            id=download.state.id,
        )
        try:
            await self._execute(download)
        except asyncio.CancelledError:
            download.update(status="cancelled", detail="", rate=0, seconds_left=None)
        except ServiceError as error:
            _record_failure(download, error)
        except Exception:
            log.exception("download failed", id=download.state.id)
            _record_failure(download, InternalError("The supervisor failed. See errors.log."))
        finally:
            download.ended = time.monotonic()
            download.changed.set()
            log.info(
                "download ended",
                model=download.request.model,
                name=download.state.name,
                status=download.state.status,
                reason=download.state.error,
            )

    async def _execute(self, download: _Download) -> None:
        request = download.request
        if request.task == "rollback":
            download.record(await self._version_update.rollback(request.model, download.record))
            return

        def report(progress: Progress) -> None:
            if not progress.is_over:
                download.record(progress)

        name = f"{request.task}/{request.model}"
        pidfile = self._folder / f"efetch-{download.state.id}.pid"
        progress = await run_child(name, pidfile, _command(request), report)
        if progress.stage == "staged":
            progress = await self._version_update.install(progress, request.keep, download.record)
        download.record(progress)


def _record_failure(download: _Download, error: ServiceError) -> None:
    download.record(Progress.of(error))
    download.update(error=error.message, error_status=error.status, error_code=error.code or "")


def _command(request: StartDownload) -> list[str]:
    options = ["--name", request.name, "--format", request.format] if request.task == "pull" else []
    force = ["--force"] if request.force else []
    return [*COMMAND, "--task", request.task, *options, *force, "--", request.model]
