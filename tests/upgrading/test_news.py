"""`vllm-obtain upgrade` where there is nothing that could be replaced."""

from __future__ import annotations

import shutil

from tests.service import free_port
from vllm_obtain.supervisor import runtime
from vllm_obtain.upgrading import news


def test_without_a_service_it_says_how_to_start_one() -> None:
    told: list[str] = []
    assert not news.upgrade(free_port(), told.append)
    assert "vllm-obtain serve" in told[0]


def test_a_service_that_does_not_know_how_is_left_alone() -> None:
    port, told = free_port(), list[str]()
    runtime.begin_service(port)
    try:
        # A signal would end this process.
        assert not news.upgrade(port, told.append)
        assert "cannot be replaced" in told[0]
    finally:
        shutil.rmtree(runtime.folder(port))
