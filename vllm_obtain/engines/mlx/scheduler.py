"""The generation thread: decides in each round who decodes, whose prompt goes on, who starts.

A round is one token for every running row and one bounded piece of one prompt, so a long prompt
costs running streams a piece per token and no more; two while most requests are still to begin.
"""

from __future__ import annotations

import contextlib
import copy
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from .batch import Batch
from .config import Config
from .events import Event, Failure, Finish
from .groups import Groups
from .load import Loaded
from .prefill import Prefill, batchable, finish, pick
from .prefix_cache import PrefixCache, can_be_cut
from .request import Request
from .row import Row

Told = list[tuple[Request, Event]]
# mlx keeps freed buffers for reuse; lengths that come and go leave ever more of them.
CLEAR_EVERY = 256
# Short prompts that are finished in one pass may take so many pieces together, and twice as many
# while nobody waits for his next token.
TOGETHER = 2
# How long the first request waits for others that are being read: a pass serves all that came.
GATHER_SECONDS = 0.02


@dataclass
class Numbers:
    """What has happened since the start; read by other threads, written by this one."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


class Scheduler:
    """Owns the model.

    Args:
        loaded: the model and what belongs to it.
        config: the limits.
        deliver: takes events; called once a round at most.
    """

    def __init__(self, loaded: Loaded, config: Config, deliver: Callable[[Told], None]) -> None:
        self.numbers = Numbers()
        self.arriving = 0  # requests that are being read; HTTP's thread counts them
        self.prefixes = PrefixCache(config.prefix_cache_bytes, config.prompt_step)
        self._loaded = loaded
        self._memory = loaded.memory
        self._config = config
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[tuple[str, Request]] = queue.SimpleQueue()
        self._waiting: deque[list[Row]] = deque()
        self._prompts: list[Prefill] = []
        self._groups = Groups(loaded.memory)
        self._told: Told = []
        self._turn = 0

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return len(self._waiting) + self._inbox.qsize()

    @property
    def running(self) -> int:
        """Choices in the model, those of prompts included."""
        prompts = sum(len(prompt.rows) for prompt in list(self._prompts))
        return prompts + len(self._groups)

    def submit(self, request: Request) -> None:
        """Have a request processed; callable from any thread."""
        self._inbox.put(("submit", request))

    def cancel(self, request: Request) -> None:
        """Forget a request at the next round; callable from any thread."""
        self._inbox.put(("cancel", request))

    def run(self) -> None:
        """Work for ever."""
        while True:
            self._receive()
            self._round()

    def rehearse(self, requests: Iterable[Request]) -> None:
        """Answer requests before there are others, and forget them; not for after `run`.

        What a device has to compile for its first prompts and tokens takes it seconds.
        """
        self._waiting.extend(self._rows_of(request) for request in requests)
        while self._busy:
            self._round()
        self.prefixes.shrink(0)
        self.numbers, self.prefixes.queries, self.prefixes.hits = Numbers(), 0, 0

    def _round(self) -> None:
        self._start_waiting()
        self._decode()
        self._tell()
        self._process_prompt()
        if len(self._prompts) > len(self._groups):
            # A pass for a few rows costs what one for all of them does: have them all soon.
            self._process_prompt()
        self._tell()

    # --- what comes in ---------------------------------------------------------------------

    @property
    def _busy(self) -> bool:
        return bool(self._waiting or self._prompts or self._groups)

    def _receive(self) -> None:
        if not self._busy:
            self._take(self._inbox.get())
            self._gather()
        while not self._inbox.empty():
            self._take(self._inbox.get())

    def _gather(self) -> None:
        end = time.monotonic() + GATHER_SECONDS
        while self.arriving and (left := end - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self._take(self._inbox.get(timeout=left))

    def _take(self, told: tuple[str, Request]) -> None:
        order, request = told
        if order == "submit":
            self._waiting.append(self._rows_of(request))
        else:
            self._forget(request)

    def _rows_of(self, request: Request) -> list[Row]:
        pieces, ends = self._loaded.pieces, self._loaded.ends
        return [Row(request, choice, pieces, ends) for choice in range(request.choices)]

    def _forget(self, request: Request) -> None:
        self._waiting = deque(rows for rows in self._waiting if rows[0].request is not request)
        for prompt in [one for one in self._prompts if one.rows[0].request is request]:
            self._prompts.remove(prompt)
            prompt.settle()
            self.prefixes.keep(request.tokens[: prompt.done], prompt.caches, request.salt)
        self._remove([row for row in self._groups.rows if row.request is request])

    def _start_waiting(self) -> None:
        while self._waiting and self.running + len(self._waiting[0]) <= self._config.slots:
            lengths = [row.horizon for row in [*self._rows(), *self._waiting[0]]]
            if not self._memory.fits(lengths):
                return  # a row that ends makes room: nothing that is refused for good gets here
            rows = self._waiting.popleft()
            first = rows[0].request
            caches, done = self.prefixes.find(first.tokens, first.salt)
            for row in rows:
                row.cached = done
            step = self._config.prompt_step
            self._prompts.append(Prefill(self._loaded.model, rows, caches, done, step))
            self._told.append((rows[0].request, rows[0].progress(done)))
            self._yield_room()

    # --- rounds ----------------------------------------------------------------------------

    def _decode(self) -> None:
        self._make_room()
        self._groups.regroup()
        ended: list[Row] = []
        for batch in self._groups:
            self.numbers.steps += 1
            for row, token, told in batch.step():
                self.numbers.generated_tokens += 1
                if self._note(row, row.take(token, told)):
                    ended.append(row)
        self._tell()  # keeping the caches of what ended takes a moment
        self._remove(ended)
        if self.numbers.steps % CLEAR_EVERY == 0:
            mx.clear_cache()

    def _process_prompt(self) -> None:
        if not self._prompts:
            return
        self._turn += 1
        self.numbers.steps += 1
        step, most = self._config.prompt_step, TOGETHER * self._config.prefill_chunk
        picked = pick(self._prompts, self._turn, most if self._groups else 2 * most, step)
        if len(picked) == 1:
            self._go_on(picked[0])
            return
        self.numbers.prompt_tokens += sum(prompt.left for prompt in picked)
        caches = finish(self._loaded.model, picked, step)
        self._begin_answers(picked, caches)

    def _go_on(self, prompt: Prefill) -> None:
        if not prompt.ready:
            parts = self._config.prefill_parts if self._groups else 1
            self.numbers.prompt_tokens += prompt.advance(self._config.prefill_chunk, parts)
            if self._groups or not prompt.ready:
                # Joining those that run is work too: they get their next tokens before that.
                row = prompt.rows[0]
                self._told.append((row.request, row.progress(prompt.done)))
                return
        if not can_be_cut(prompt.caches):
            # Later, when more tokens are in them, they are of use to nobody.
            salt = prompt.rows[0].request.salt
            self.prefixes.keep(prompt.tokens[:-1], copy.deepcopy(prompt.caches), salt)
        if batchable(prompt.caches):
            self._begin_answers([prompt], prompt.rectangle())
            return
        rows, prompt.rows = prompt.rows, prompt.rows[:1]
        for row in rows[1:]:
            self._groups.place(Batch(self._loaded.model, [row], copy.deepcopy(prompt.caches)))
        self._begin_answers([prompt], prompt.caches)

    def _begin_answers(self, prompts: list[Prefill], caches: list[Any]) -> None:
        """Have rows decode whose prompts are done, and whose caches share a rectangle."""
        rows = [row for prompt in prompts for row in prompt.rows]
        self._prompts = [prompt for prompt in self._prompts if prompt not in prompts]
        self._groups.place(Batch(self._loaded.model, rows, caches))
        for prompt in prompts:
            row = prompt.rows[0]
            self._told.append((row.request, row.progress(len(prompt.tokens))))

    # --- the end of rows -------------------------------------------------------------------

    def _note(self, row: Row, events: Iterable[Event]) -> bool:
        """Pass events on; tells whether they were the last."""
        last: Event | None = None
        for last in events:
            self._told.append((row.request, last))
        return isinstance(last, Finish | Failure)

    def _remove(self, rows: list[Row]) -> None:
        if rows:
            self._groups.remove(rows, self._keep_prefix)

    def _keep_prefix(self, batch: Batch, row: Row) -> None:
        if can_be_cut(own := batch.cache_of(row)):
            self.prefixes.keep(batch.tokens_of(row), own, row.request.salt)

    # --- memory ----------------------------------------------------------------------------

    def _make_room(self) -> None:
        """End the longest answers without a named length when the rest no longer fits."""
        while not self._memory.fits(row.horizon for row in self._rows()):
            open_ended = [row for row in self._groups.rows if not row.request.bounded]
            if not open_ended:
                return
            longest = max(open_ended, key=lambda row: row.horizon)
            self._note(longest, longest.finish("length"))
            self._remove([longest])
        self._yield_room()

    def _yield_room(self) -> None:
        """Let kept prefixes have only what running rows leave."""
        if self._memory.budget:
            taken = self._memory.taken(row.horizon for row in self._rows())
            self.prefixes.shrink(max(0, self._memory.budget - taken))

    # --- who is there ----------------------------------------------------------------------

    def _rows(self) -> list[Row]:
        return [*(row for prompt in self._prompts for row in prompt.rows), *self._groups.rows]

    def _tell(self) -> None:
        if self._told:
            told, self._told = self._told, []
            self._deliver(told)
