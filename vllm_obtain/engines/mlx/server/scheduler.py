"""The generation thread: schedules decode steps and prefill chunks.

A round is one token for every running sequence and one bounded prefill chunk, so a long prompt
delays running streams by one chunk per token; two while most requests are still in prefill.
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
from .length_buckets import LengthBuckets
from .model_loader import LoadedModel
from .prefill import Prefill, batchable, finish, pick
from .prefix_cache import PrefixCache, can_be_cut
from .request import Request
from .sequence import SequenceState

RequestEvents = list[tuple[Request, Event]]
# mlx keeps freed buffers for reuse; changing lengths would leave more and more of them.
CLEAR_EVERY = 256
# Short prompts that finish in one pass may have this many chunks together, and twice as many
# while no sequence decodes.
MAX_SHARED_CHUNKS = 2
# How long the first request waits for others that are being parsed, to share a pass with them.
GATHER_SECONDS = 0.02


@dataclass
class SchedulerCounters:
    """Counters since the start; written by this thread, read by others."""

    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0


class Scheduler:
    """Owns the model.

    Args:
        loaded: the loaded model.
        config: the configuration of the server.
        deliver: callback for events; called a few times per round.
    """

    def __init__(
        self, loaded: LoadedModel, config: Config, deliver: Callable[[RequestEvents], None]
    ) -> None:
        self.counters = SchedulerCounters()
        self.arriving = 0  # requests that the HTTP thread is parsing
        self.prefixes = PrefixCache(config.prefix_cache_bytes, config.prompt_step)
        self._loaded = loaded
        self._memory = loaded.memory
        self._config = config
        self._deliver = deliver
        self._inbox: queue.SimpleQueue[tuple[str, Request]] = queue.SimpleQueue()
        self._waiting: deque[list[SequenceState]] = deque()
        self._prompts: list[Prefill] = []
        self._buckets = LengthBuckets(loaded.memory)
        self._events: RequestEvents = []
        self._turn = 0

    @property
    def waiting(self) -> int:
        """Number of requests that have not started."""
        return len(self._waiting) + self._inbox.qsize()

    @property
    def running(self) -> int:
        """Number of choices in prefill or decode."""
        prompts = sum(len(prompt.sequences) for prompt in list(self._prompts))
        return prompts + len(self._buckets)

    def submit(self, request: Request) -> None:
        """Queue a request; callable from any thread."""
        self._inbox.put(("submit", request))

    def cancel(self, request: Request) -> None:
        """Cancel a request at the next round; callable from any thread."""
        self._inbox.put(("cancel", request))

    def run(self) -> None:
        """Run rounds forever."""
        while True:
            self._receive()
            self._round()

    def warm_up(self, requests: Iterable[Request]) -> None:
        """Run warm-up requests and discard their results; only before `run`.

        They trigger kernel compilation, which takes seconds on some devices.
        """
        self._waiting.extend(self._sequences_of(request) for request in requests)
        while self._busy:
            self._round()
        self.prefixes.shrink(0)
        self.counters, self.prefixes.queries, self.prefixes.hits = SchedulerCounters(), 0, 0

    def _round(self) -> None:
        self._start_waiting()
        self._decode()
        self._deliver_events()
        self._process_prompt()
        if len(self._prompts) > len(self._buckets):
            # A pass costs the same for few sequences as for all, so fill the batch soon.
            self._process_prompt()
        self._deliver_events()

    # --- incoming requests -----------------------------------------------------------------

    @property
    def _busy(self) -> bool:
        return bool(self._waiting or self._prompts or self._buckets)

    def _receive(self) -> None:
        if not self._busy:
            self._handle(self._inbox.get())
            self._gather()
        while not self._inbox.empty():
            self._handle(self._inbox.get())

    def _gather(self) -> None:
        end = time.monotonic() + GATHER_SECONDS
        while self.arriving and (left := end - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                self._handle(self._inbox.get(timeout=left))

    def _handle(self, message: tuple[str, Request]) -> None:
        action, request = message
        if action == "submit":
            self._waiting.append(self._sequences_of(request))
        else:
            self._cancel(request)

    def _sequences_of(self, request: Request) -> list[SequenceState]:
        pieces, ends = self._loaded.pieces, self._loaded.ends
        return [SequenceState(request, choice, pieces, ends) for choice in range(request.choices)]

    def _cancel(self, request: Request) -> None:
        self._waiting = deque(
            sequences for sequences in self._waiting if sequences[0].request is not request
        )
        for prompt in [each for each in self._prompts if each.sequences[0].request is request]:
            self._prompts.remove(prompt)
            prompt.settle()
            self.prefixes.keep(request.tokens[: prompt.done], prompt.caches, request.salt)
        self._remove(
            [sequence for sequence in self._buckets.sequences if sequence.request is request]
        )

    def _start_waiting(self) -> None:
        while self._waiting and self.running + len(self._waiting[0]) <= self._config.slots:
            lengths = [sequence.horizon for sequence in [*self._sequences(), *self._waiting[0]]]
            if not self._memory.fits(lengths):
                return  # wait for a sequence to end: requests that never fit were rejected before
            sequences = self._waiting.popleft()
            first = sequences[0].request
            caches, done = self.prefixes.find(first.tokens, first.salt)
            for sequence in sequences:
                sequence.cached = done
            step = self._config.prompt_step
            self._prompts.append(Prefill(self._loaded.model, sequences, caches, done, step))
            self._events.append((sequences[0].request, sequences[0].progress(done)))
            self._limit_prefix_cache()

    # --- rounds ----------------------------------------------------------------------------

    def _decode(self) -> None:
        self._free_memory()
        self._buckets.regroup()
        ended: list[SequenceState] = []
        for batch in self._buckets:
            self.counters.steps += 1
            for sequence, token, logprobs in batch.step():
                self.counters.generated_tokens += 1
                if self._queue_events(sequence, sequence.add(token, logprobs)):
                    ended.append(sequence)
        self._deliver_events()  # first, because storing finished caches takes time
        self._remove(ended)
        if self.counters.steps % CLEAR_EVERY == 0:
            mx.clear_cache()

    def _process_prompt(self) -> None:
        if not self._prompts:
            return
        self._turn += 1
        self.counters.steps += 1
        step, most = self._config.prompt_step, MAX_SHARED_CHUNKS * self._config.prefill_chunk
        picked = pick(self._prompts, self._turn, most if self._buckets else 2 * most, step)
        if len(picked) == 1:
            self._advance_prefill(picked[0])
            return
        self.counters.prompt_tokens += sum(prompt.left for prompt in picked)
        caches = finish(self._loaded.model, picked, step)
        self._start_decoding(picked, caches)

    def _advance_prefill(self, prompt: Prefill) -> None:
        if not prompt.ready:
            parts = self._config.prefill_parts if self._buckets else 1
            self.counters.prompt_tokens += prompt.advance(self._config.prefill_chunk, parts)
            if self._buckets or not prompt.ready:
                # Joining the batch takes time, so running streams get their next token first.
                sequence = prompt.sequences[0]
                self._events.append((sequence.request, sequence.progress(prompt.done)))
                return
        if not can_be_cut(prompt.caches):
            # Later they will hold more tokens and cannot be trimmed.
            salt = prompt.sequences[0].request.salt
            self.prefixes.keep(prompt.tokens[:-1], copy.deepcopy(prompt.caches), salt)
        if batchable(prompt.caches):
            self._start_decoding([prompt], prompt.batched_caches())
            return
        sequences, prompt.sequences = prompt.sequences, prompt.sequences[:1]
        for sequence in sequences[1:]:
            self._buckets.add(Batch(self._loaded.model, [sequence], copy.deepcopy(prompt.caches)))
        self._start_decoding([prompt], prompt.caches)

    def _start_decoding(self, prompts: list[Prefill], caches: list[Any]) -> None:
        """Start decoding sequences whose prompts are processed and whose caches form one batch."""
        sequences = [sequence for prompt in prompts for sequence in prompt.sequences]
        self._prompts = [prompt for prompt in self._prompts if prompt not in prompts]
        self._buckets.add(Batch(self._loaded.model, sequences, caches))
        for prompt in prompts:
            sequence = prompt.sequences[0]
            self._events.append((sequence.request, sequence.progress(len(prompt.tokens))))

    # --- finished sequences ----------------------------------------------------------------

    def _queue_events(self, sequence: SequenceState, events: Iterable[Event]) -> bool:
        """Queue events; return whether they end the sequence."""
        last: Event | None = None
        for last in events:
            self._events.append((sequence.request, last))
        return isinstance(last, Finish | Failure)

    def _remove(self, sequences: list[SequenceState]) -> None:
        if sequences:
            self._buckets.remove(sequences, self._keep_prefix)

    def _keep_prefix(self, batch: Batch, sequence: SequenceState) -> None:
        if can_be_cut(caches := batch.cache_of(sequence)):
            self.prefixes.keep(batch.tokens_of(sequence), caches, sequence.request.salt)

    # --- memory ----------------------------------------------------------------------------

    def _free_memory(self) -> None:
        """End the longest completions without `max_tokens` when the memory does not suffice."""
        while not self._memory.fits(sequence.horizon for sequence in self._sequences()):
            open_ended = [
                sequence for sequence in self._buckets.sequences if not sequence.request.bounded
            ]
            if not open_ended:
                return
            longest = max(open_ended, key=lambda sequence: sequence.horizon)
            self._queue_events(longest, longest.finish("length"))
            self._remove([longest])
        self._limit_prefix_cache()

    def _limit_prefix_cache(self) -> None:
        """Limit the prefix cache to the memory that running sequences leave."""
        if self._memory.budget:
            used = self._memory.used_bytes(sequence.horizon for sequence in self._sequences())
            self.prefixes.shrink(max(0, self._memory.budget - used))

    # --- helpers ---------------------------------------------------------------------------

    def _sequences(self) -> list[SequenceState]:
        return [
            *(sequence for prompt in self._prompts for sequence in prompt.sequences),
            *self._buckets.sequences,
        ]

    def _deliver_events(self) -> None:
        if self._events:
            events, self._events = self._events, []
            self._deliver(events)
