"""The generation thread: decides in each round who decodes, whose prompt goes on, who starts.

A round is one token for every running row and one bounded piece of one prompt, so a long prompt
costs running streams a piece per token and no more.
"""

from __future__ import annotations

import copy
import itertools
import queue
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import mlx.core as mx

from .batch import Batch
from .config import Config
from .events import Event, Finish
from .load import Loaded
from .memory import length_class
from .prefill import Prefill, pick
from .prefix_cache import PrefixCache, can_be_cut
from .request import Request
from .row import Row

Told = list[tuple[Request, Event]]
# mlx keeps freed buffers for reuse; lengths that come and go leave ever more of them.
CLEAR_EVERY = 256


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
        self.prefixes = PrefixCache(config.prefix_cache_bytes)
        self._loaded = loaded
        self._memory = loaded.memory
        self._config = config
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[tuple[str, Request]] = queue.SimpleQueue()
        self._waiting: deque[Row] = deque()
        self._prompts: list[Prefill] = []
        # By length class; rows that cannot be batched are alone, under numbers below zero.
        self._batches: dict[int, Batch] = {}
        self._alone = itertools.count(1)
        self._told: Told = []
        self._turn = 0

    @property
    def waiting(self) -> int:
        """Requests that have not begun."""
        return len(self._waiting) + self._inbox.qsize()

    @property
    def running(self) -> int:
        """Requests in the model, their prompts included."""
        return len(self._prompts) + sum(map(len, list(self._batches.values())))

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
            self._start_waiting()
            self._decode()
            self._tell()
            self._process_prompt()
            self._tell()

    # --- what comes in ---------------------------------------------------------------------

    def _receive(self) -> None:
        idle = not (self._waiting or self._prompts or self._batches)
        while idle or not self._inbox.empty():
            order, request = self._inbox.get()
            idle = False
            if order == "submit":
                self._waiting.append(Row(request, self._loaded.pieces, self._loaded.ends))
            else:
                self._forget(request)

    def _forget(self, request: Request) -> None:
        self._waiting = deque(row for row in self._waiting if row.request is not request)
        for prompt in [one for one in self._prompts if one.row.request is request]:
            self._prompts.remove(prompt)
            self.prefixes.keep(request.tokens[: prompt.done], prompt.caches)
        self._remove([row for row in self._decoding() if row.request is request])

    def _start_waiting(self) -> None:
        while self._waiting and self.running < self._config.slots:
            lengths = [row.horizon for row in [*self._rows(), self._waiting[0]]]
            if not self._memory.fits(lengths):
                return  # a row that ends makes room: nothing that is refused for good gets here
            row = self._waiting.popleft()
            caches, done = self.prefixes.find(row.request.tokens)
            row.cached = done
            self._prompts.append(Prefill(self._loaded.model, row, caches, done))
            self._told.append((row.request, row.progress(done)))
            self._yield_room()

    # --- rounds ----------------------------------------------------------------------------

    def _decode(self) -> None:
        self._make_room()
        self._regroup()
        ended: list[Row] = []
        for batch in list(self._batches.values()):
            self.numbers.steps += 1
            for row, token, told in batch.step():
                self.numbers.generated_tokens += 1
                if self._note(row, row.take(token, told)):
                    ended.append(row)
        self._remove(ended)
        if self.numbers.steps % CLEAR_EVERY == 0:
            mx.clear_cache()

    def _process_prompt(self) -> None:
        if not self._prompts:
            return
        self._turn += 1
        prompt = pick(self._prompts, self._turn)
        self.numbers.steps += 1
        self.numbers.prompt_tokens += prompt.advance(self._config.prefill_chunk)
        row = prompt.row
        if prompt.left:
            self._told.append((row.request, row.progress(prompt.done)))
            return
        self._prompts.remove(prompt)
        if not can_be_cut(prompt.caches):
            # Later, when more tokens are in them, they are of use to nobody.
            self.prefixes.keep(row.request.tokens[:-1], copy.deepcopy(prompt.caches))
        self._place(Batch(self._loaded.model, row, prompt.caches))
        self._told.append((row.request, row.progress(len(row.request.tokens))))

    def _place(self, batch: Batch) -> None:
        """Put a batch of one row where rows of its length are."""
        batchable = len(batch) > 1 or all(hasattr(cache, "merge") for cache in batch.caches)
        key = length_class(batch.rows[0].horizon) if batchable else -next(self._alone)
        if (others := self._batches.get(key)) is None:
            self._batches[key] = batch
        else:
            others.join(batch)

    def _regroup(self) -> None:
        """Move rows that have outgrown their length class."""
        for key, batch in list(self._batches.items()):
            grown = [row for row in batch.rows if 0 <= key < length_class(row.horizon)]
            if not grown:
                continue
            parts = [batch.part(row) for row in grown]
            self._drop(key, grown)
            for part in parts:
                self._place(part)

    # --- the end of rows -------------------------------------------------------------------

    def _note(self, row: Row, events: Iterable[Event]) -> bool:
        """Pass events on; tells whether they were the last."""
        last: Event | None = None
        for last in events:
            self._told.append((row.request, last))
        return isinstance(last, Finish)

    def _remove(self, rows: list[Row]) -> None:
        for key, batch in list(self._batches.items()):
            gone = [row for row in batch.rows if row in rows]
            for row in gone:
                if can_be_cut(own := batch.cache_of(row)):
                    self.prefixes.keep(row.tokens, own)
            if gone:
                self._drop(key, gone)

    def _drop(self, key: int, gone: list[Row]) -> None:
        batch = self._batches[key]
        left = [row for row in batch.rows if row not in gone]
        if left:
            batch.keep(left)
        else:
            del self._batches[key]

    # --- memory ----------------------------------------------------------------------------

    def _make_room(self) -> None:
        """End the longest answers without a named length when the rest no longer fits."""
        while not self._memory.fits(row.horizon for row in self._rows()):
            open_ended = [row for row in self._decoding() if not row.request.bounded]
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

    def _decoding(self) -> list[Row]:
        return [row for batch in self._batches.values() for row in batch.rows]

    def _rows(self) -> list[Row]:
        return [*(prompt.row for prompt in self._prompts), *self._decoding()]

    def _tell(self) -> None:
        if self._told:
            told, self._told = self._told, []
            self._deliver(told)
