"""How often one request is asked again after the end of its engine, or of the supervisor."""

from __future__ import annotations

import time

from vllm_obtain.engines.client import EngineLost
from vllm_obtain.log import get_logger
from vllm_obtain.supervisor.client import SupervisorLost

log = get_logger("vllm_obtain.generate")

# Engine processes that one request may see the end of. One that ends them itself is refused long
# before, by the quarantine; this is for those that meet others' ends.
MAX_PROCESSES = 8
# Tries with one process, or with none.
MAX_TRIES = 6
# Seconds before the second try, doubled for each further one, 3 s in all: a supervisor may have to
# be started again, and an engine that broke a connection is looked at before it is used again.
PAUSE = 0.1

Lost = EngineLost | SupervisorLost


class Endurance:
    """What one request can bear.

    Args:
        deadline: monotonic seconds after which its answer is of no use.
    """

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self._processes: set[float] = set()
        self._tries = 0

    def outlast(self, error: Lost, process: float, model: str) -> None:
        """Wait until it is worth while to ask again.

        Args:
            error: what happened.
            process: tells the engine's process from others.
            model: for the log.

        Raises:
            EngineLost, SupervisorLost: what happened, when it has happened too often.
        """
        if process not in self._processes:
            self._processes.add(process)
            self._tries = 0
        self._tries += 1
        if len(self._processes) == MAX_PROCESSES or self._tries == MAX_TRIES:
            raise error
        log.warning("asking again", model=model, reason=error.message)
        time.sleep(PAUSE * 2 ** (self._tries - 1))
