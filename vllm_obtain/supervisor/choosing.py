"""Which model a name means, and which engines may serve it."""

from __future__ import annotations

from vllm_obtain.catalogue import Catalogue, Model
from vllm_obtain.engines.choice import Choice, only, ranked
from vllm_obtain.errors import EngineFailed
from vllm_obtain.settings import Settings
from vllm_obtain.supervisor.seat import Seat
from vllm_obtain.supervisor.states import OCCUPIES


class Chooser:
    """Looks at the disk and at what was asked for by name.

    Args:
        settings: the owner's settings.
        catalogue: the models on disk.
    """

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        self._settings = settings
        self._catalogue = catalogue

    def known(self, name: str) -> Model:
        """Find a model as it was when somebody last looked.

        Raises:
            ModelNotFound: there is no such model.
        """
        return self._catalogue.find(name)

    def find(self, name: str) -> Model:
        """Find a model as it is on disk now.

        Raises:
            ModelNotFound: there is no such model.
            EngineFailed: its files are broken.
        """
        self._catalogue.models()
        model = self._catalogue.find(name)
        if model.problem:
            raise EngineFailed(
                f"'{model.name}' cannot be loaded: {model.problem}",
                status=503,
                code="model_broken",
                retry=False,
            )
        return model

    def ranked(self, model: Model, named: str | None) -> list[Choice]:
        """List the engines for a model, the best first.

        Args:
            model: the model.
            named: the only one that shall serve it, if somebody said so.

        Raises:
            InvalidRequest, EngineFailed: as `choice.ranked` and `choice.only`.
        """
        if named is not None:
            return [only(model, self._settings, named)]
        return ranked(model, self._settings)

    def choices(self, seat: Seat) -> list[Choice]:
        """List the engines for the model of a seat, as it is on disk now."""
        model = self.find(seat.name)
        seat.look_at(model.revision)
        return self.ranked(model, seat.named)

    def identity(self, name: str, seat: Seat | None) -> tuple[str, str]:
        """The engine and the revision of a model that answer now, or would."""
        if seat is not None and seat.engine is not None and seat.engine.state in OCCUPIES:
            return seat.engine.adapter.name, seat.engine.model.revision
        model = self.find(name)
        choices = self.ranked(model, seat.named if seat else None)
        choice = seat.first(choices) if seat is not None else choices[0]
        return choice.adapter.name, model.revision
