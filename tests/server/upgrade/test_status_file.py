"""`vllm-obtain upgrade` where there is nothing that could be replaced."""

from __future__ import annotations

import shutil

from tests.ports import free_port
from vllm_obtain.control import runtime_dir
from vllm_obtain.server.upgrade import status_file


def test_without_a_service_it_says_how_to_start_one() -> None:
    messages: list[str] = []
    assert not status_file.upgrade(free_port(), messages.append)
    assert "vllm-obtain serve" in messages[0]


def test_a_service_that_does_not_know_how_is_left_alone() -> None:
    port, told = free_port(), list[str]()
    runtime_dir.begin_service(port)
    try:
        # A signal would end this process.
        assert not status_file.upgrade(port, told.append)
        assert "does not support upgrades" in told[0]
    finally:
        shutil.rmtree(runtime_dir.folder(port))
