"""Messages of models: load, unload, download, inspect and remove."""

from __future__ import annotations

from vllm_obtain.control.messages.base import Reply, Request


class LoadModel(Request, frozen=True):
    """Load a model, or switch its engine. → LoadStatus or ErrorReply.

    Args:
        model: name of the model.
        wait: whether the reply comes when the model is ready, or at once.
        engine: the engine to use from now on. Running requests finish on the old one. `auto`
            selects the best engine of this machine, None keeps the current one.
    """

    model: str
    wait: bool
    engine: str | None = None


class UnloadModel(Request, frozen=True):
    """Unload a model after its requests have finished. A load without requests is cancelled.

    → LoadStatus or ErrorReply.
    """

    model: str


class LoadStatus(Reply, frozen=True):
    """The state of a load or unload: the engine, its state, and the stage of a start."""

    engine: str
    state: str
    stage: str | None = None


class StartDownload(Request, frozen=True):
    """Start a download in the background. → DownloadState or ErrorReply.

    Args:
        model: a catalog name, repository, URL or path; for other tasks the name of a downloaded
            model.
        name: name of the model on this machine, empty for the default one.
        format: file format, empty for the one that suits this machine.
        force: whether to replace a downloaded model of that name.
        task: `pull`, `update` (to the latest revision of the source) or `rollback` (to the
            previous revision).
        keep: whether an update keeps the previous revision.
    """

    model: str
    name: str = ""
    format: str = ""
    force: bool = False
    task: str = "pull"
    keep: bool = True


class WaitForDownload(Request, frozen=True):
    """Wait until the state of a download changes. → DownloadState or ErrorReply.

    Args:
        id: id of the download.
        version: `DownloadState.version` of the last known state, -1 for none.
        patience: seconds after which the reply comes without a change.
    """

    id: str
    version: int = -1
    patience: float = 5.0


class CancelDownload(Request, frozen=True):
    """Cancel a download. → DownloadState after it has ended, or ErrorReply."""

    id: str


class ListDownloads(Request, frozen=True):
    """List the downloads. → DownloadList."""


class DownloadState(Reply, frozen=True):
    """The state of a download.

    Args:
        id: id of the download.
        model: the requested model, as in `StartDownload`.
        name: name of the model on this machine, empty while unknown.
        created: start of the download, Unix time in seconds.
        status: `looking`, `waiting`, `downloading`, `checking`, `loading`, `success`, `failed`,
            `cancelled`.
        source: the hub or URL that is used.
        completed: downloaded bytes.
        total: bytes of all files, 0 while unknown.
        rate: bytes per second.
        seconds_left: estimated remaining seconds, None while unknown.
        detail: the current file, or the reason of a retry.
        error: error message of a failed download.
        error_status: HTTP status of the error.
        error_code: error code.
        version: number of changes of the state.
        task: as in `StartDownload`.
    """

    id: str
    model: str
    name: str
    created: int
    status: str = "looking"
    source: str = ""
    completed: int = 0
    total: int = 0
    rate: int = 0
    seconds_left: float | None = None
    detail: str = ""
    error: str = ""
    error_status: int = 0
    error_code: str = ""
    version: int = 0
    task: str = "pull"

    @property
    def is_over(self) -> bool:
        """Whether the download has ended."""
        return self.status in ("success", "failed", "cancelled")


class DownloadList(Reply, frozen=True):
    """The running downloads, and those that ended within the last hour."""

    pulls: list[DownloadState]


class InspectModels(Request, frozen=True):
    """Compare downloaded models. → ModelsInspected or ErrorReply.

    Args:
        task: `look` compares with the sources, `verify` with the manifests.
        names: names of the models, empty for all.
    """

    task: str
    names: list[str]


class ModelsInspected(Reply, frozen=True):
    """The result as JSON: a list of `download.update_check.ModelChange`, or of
    `download.verify.VerifyResult`.
    """

    report: bytes


class RemoveModel(Request, frozen=True):
    """Remove a model's files, unless it is in use. → ModelRemoved or ErrorReply."""

    model: str


class ModelRemoved(Reply, frozen=True):
    """The removed paths below MODELS_DIR, and their size in bytes."""

    paths: list[str]
    size: int
