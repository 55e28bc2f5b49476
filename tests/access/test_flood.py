"""A key that floods the service does not lock out another one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.access.helpers import CHAT, KeyedService, bearer
from tests.fake_engine import write_model

CHATS = "/v1/chat/completions"


def test_a_flood_of_one_key_leaves_places_for_another(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    write_model(tmp_path / "models", "slow", slots=2, pace=0.005)
    body = {**CHAT, "model": "slow"}
    with KeyedService(tmp_path, {"MAX_CONCURRENT_REQUESTS": "8"}) as service:
        flood_key, _ = service.key("inference")
        assert service.ask("POST", CHATS, bearer(service.user), body)[0] == 200
        is_over = threading.Event()

        def flood(_: int) -> list[tuple[int, int]]:
            responses = []
            while not is_over.is_set():
                status, headers, _ = service.ask("POST", CHATS, bearer(flood_key), body)
                responses.append((status, int(headers.get("retry-after", 0))))
            return responses

        with ThreadPoolExecutor(24) as pool:
            floods = pool.map(flood, range(24))
            try:
                polite = [
                    service.ask("POST", CHATS, bearer(service.user), body)[0] for _ in range(6)
                ]
            finally:
                is_over.set()
            responses = [each for group in floods for each in group]
    assert polite == [200] * 6
    rejected = [seconds for status, seconds in responses if status == 429]
    assert {status for status, _ in responses} == {200, 429}
    assert rejected and all(1 <= seconds <= 120 for seconds in rejected)
