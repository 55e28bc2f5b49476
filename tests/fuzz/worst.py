"""`python -m tests.fuzz.worst`: search for the request that delays others most.

Fills each list, object and string of each request type up to MAX_BODY_MB or the limits of the
parser, measures how long the gateway works on it without a pause, and sends the slowest ones to a
service. The service is asked for /health, /v1/models and completions of a fake engine meanwhile.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.progress import Progress, Step
from tests.access.helpers import CHAT
from tests.fake_engine import ENVIRONMENT, write_model
from tests.gateway.request_fields import Field, fields_of
from tests.gateway.test_scaling import APIS, seconds
from tests.service import Service
from vllm_obtain.protocol.parsing import MOST_FIELDS, MOST_VALUES

# Bytes of the requests that are sent; MAX_BODY_MB has to be larger.
LARGEST = 60_000_000
# Bytes of the requests that are compared first.
SAMPLE = 1_000_000
# Requests of each route that are sent to a service.
SENT = 4


@dataclass
class Candidate:
    """A request that may be slow.

    Args:
        route: where to send it.
        field: the field that is filled.
        count: number of elements or units.
        seconds: processor time, estimated from a smaller one.
    """

    route: str
    field: Field
    count: int
    seconds: float


def largest_count(field: Field) -> int:
    """Return the number of elements at which a body reaches one of the limits."""
    small, large = field.body(0), field.body(1000)
    counts = [1000 * LARGEST / max(1, len(large) - len(small))]
    for sign, most in ((b",", MOST_VALUES), (b":", MOST_FIELDS)):
        if added := large.count(sign) - small.count(sign):
            counts.append(1000 * (most - 1000) / added)
    return int(min(counts))


def candidates() -> Iterator[Candidate]:
    """Estimate the time of each field's largest request."""
    for route, api in APIS.items():
        for field in fields_of(api.type, api.base):
            most = largest_count(field)
            size = max(1, len(field.body(1000)))
            count = max(1, min(most, 1000 * SAMPLE // size))
            took = min(seconds(api.work, field.body(count)) for _ in range(2))
            yield Candidate(route, field, most, took * most / count)


@contextmanager
def longest_delay(service: Service) -> Iterator[dict[str, float]]:
    """Ask a service for small things all the time; yields the longest time of each, in ms."""
    longest: dict[str, float] = {}
    is_over = threading.Event()

    def ask(path: str, body: object) -> None:
        while not is_over.is_set():
            started = time.monotonic()
            assert service.request(path, body, timeout=60)[0] == 200
            took = 1000 * (time.monotonic() - started)
            longest[path] = max(longest.get(path, 0.0), took)
            is_over.wait(0.01)

    asked = [("/health", None), ("/v1/models", None), ("/v1/chat/completions", CHAT)]
    threads = [threading.Thread(target=ask, args=each) for each in asked]
    for thread in threads:
        thread.start()
    try:
        yield longest
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def main() -> int:
    """Print a line per request, the worst last. Returns 1 if one delayed others too long."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.worst")
    parser.add_argument("--limit", type=float, default=250.0, help="longest delay in ms (250)")
    parser.add_argument("--sent", type=int, default=SENT, help=f"requests of each route ({SENT})")
    arguments = parser.parse_args()
    ranked = sorted(candidates(), key=lambda each: -each.seconds)
    worst: list[Candidate] = []
    for route in APIS:
        worst += [each for each in ranked if each.route == route][: arguments.sent]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        write_model(models, "fine")
        env = {**ENVIRONMENT, "MODELS_DIR": str(models), "DEFAULT_MODEL": "fine"}
        with (
            Service(["run.py", "--no-fetch"], Path(folder), env) as service,
            Progress([Step("requests", float(len(worst)), len(worst))]) as progress,
        ):
            service.chat()
            with longest_delay(service) as idle:
                time.sleep(3)
            print("without a large request:", _line(idle), flush=True)
            progress.next_step()
            for each in worst:
                progress.next_round()
                body = each.field.body(each.count)
                with longest_delay(service) as delays:
                    status = service.request(each.route, body, timeout=120)[0]
                results.append((max(delays.values()), each, len(body), status, delays))
    for delay, each, size, status, delays in sorted(results, key=lambda result: result[0]):
        print(
            f"{delay:6.0f} ms  {each.route} {each.field.path}: {each.count:,}, {size / 1e6:.1f} MB,"
            f" status {status}, {1000 * each.seconds:.0f} ms estimated ({_line(delays)})"
        )
    return int(max(result[0] for result in results) > arguments.limit)


def _line(delays: dict[str, float]) -> str:
    return ", ".join(f"{path} {ms:.0f} ms" for path, ms in sorted(delays.items()))


if __name__ == "__main__":
    sys.exit(main())
