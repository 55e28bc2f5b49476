"""Models: loaded, unloaded, fetched, removed."""

from __future__ import annotations

from vllm_obtain.messages.base import Message


class Load(Message, frozen=True):
    """Load a model. → Done or Refused; with `wait` only when it is ready.

    Args:
        model: its name.
        wait: whether the answer comes when it is ready, or at once.
        engine: which one shall serve it from now on, moved there while requests run; `auto` for
            the one that is best here, None for whichever has it.
    """

    model: str
    wait: bool
    engine: str | None = None


class Unload(Message, frozen=True):
    """Unload a model once nobody uses it; a load that no request waits for is called off.

    → Done or Refused.
    """

    model: str


class Done(Message, frozen=True):
    """It is done, or under way."""

    engine: str
    state: str
    stage: str | None = None


class Pull(Message, frozen=True):
    """Fetch a model, in the background. → PullState or Refused.

    Args:
        model: a name of the file of names, or where it is; for other tasks, the name of one that
            was fetched.
        name: its name here, empty for the usual one.
        format: empty for the one that suits this machine.
        force: whether a fetched model of that name is replaced.
        task: `pull`; `update` to the version that its source has now; `rollback` to the one before.
        keep: whether an update keeps the version before.
    """

    model: str
    name: str = ""
    format: str = ""
    force: bool = False
    task: str = "pull"
    keep: bool = True


class PullNews(Message, frozen=True):
    """Tell me of a pull when there is more to tell. → PullState or Refused.

    Args:
        id: the pull's.
        version: of what I have heard, -1 for nothing.
        patience: seconds after which I want to hear the same once more.
    """

    id: str
    version: int = -1
    patience: float = 5.0


class PullCancel(Message, frozen=True):
    """Call a pull off. → PullState when it has ended, or Refused."""

    id: str


class Pulls(Message, frozen=True):
    """Which pulls are there? → PullsReply."""


class PullState(Message, frozen=True):
    """How far a pull is.

    Args:
        id: by which it is asked for.
        model: what was asked for.
        name: what it is called here, empty until that is known.
        created: when it began, seconds since 1970.
        status: `looking`, `waiting`, `downloading`, `checking`, `loading`, `success`, `failed`,
            `cancelled`.
        source: who gives it.
        completed: bytes that are here.
        total: bytes there will be, 0 until that is known.
        rate: bytes a second.
        seconds_left: None while nobody can tell.
        detail: the file it is about, or what is tried again.
        error: what went wrong.
        error_status: the HTTP status of that.
        error_code: its machine-readable name.
        version: counts the news.
        task: as in `Pull`.
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
        """Whether nothing comes after it."""
        return self.status in ("success", "failed", "cancelled")


class PullsReply(Message, frozen=True):
    """The pulls that run, and those that ended lately."""

    pulls: list[PullState]


class Look(Message, frozen=True):
    """Compare models that were fetched. → Looked or Refused.

    Args:
        task: `look`: with their sources; `verify`: with their manifests.
        names: of those that are wanted; none for all.
    """

    task: str
    names: list[str]


class Looked(Message, frozen=True):
    """What was found out, as JSON: a list of `fetching.comparing.Change`, or of
    `fetching.verifying.Verdict`.
    """

    report: bytes


class Remove(Message, frozen=True):
    """Remove a model's files, unless it is in use. → Removed or Refused."""

    model: str


class Removed(Message, frozen=True):
    """What was removed: paths below MODELS_DIR, and their bytes."""

    paths: list[str]
    size: int
