"""What engines are told where keys must not find each other's prompts, and started with."""

from __future__ import annotations

import pytest

from tests.engine_requests import engine_request
from vllm_obtain.engines.adapter import Adapter
from vllm_obtain.engines.llama_cpp.adapter import LlamaCpp
from vllm_obtain.engines.mlx.adapter import Mlx
from vllm_obtain.engines.mlx.server.prefix_cache import PrefixCache
from vllm_obtain.engines.vllm.adapter import Vllm
from vllm_obtain.protocol.cache_isolation import CacheIsolation
from vllm_obtain.protocol.requests import CompletionRequest

TASK = engine_request(CompletionRequest(prompt="Hi"), "Hi")
NAMES = {"cache_salt", "cache_prompt", "id_slot"}


def isolated_body(adapter: Adapter, isolation: CacheIsolation | None) -> dict[str, object]:
    body = adapter.body(TASK, 5)
    if isolation is not None:
        adapter.apply_cache_isolation(body, isolation)
    return {name: value for name, value in body.items() if name in NAMES}


@pytest.mark.parametrize("adapter", [LlamaCpp(), Vllm(), Mlx()], ids=lambda each: each.name)
def test_nothing_is_said_where_prompts_may_be_shared(adapter: Adapter) -> None:
    assert isolated_body(adapter, None) == {}


@pytest.mark.parametrize("adapter", [Vllm(), Mlx()], ids=lambda each: each.name)
def test_a_salt(adapter: Adapter) -> None:
    assert isolated_body(adapter, CacheIsolation("5a17")) == {"cache_salt": "5a17"}


def test_a_slot_and_whether_it_is_emptied_first() -> None:
    adapter = LlamaCpp()
    assert isolated_body(adapter, CacheIsolation("5a17", 3, foreign=True)) == {
        "cache_prompt": False,
        "id_slot": 3,
    }
    assert isolated_body(adapter, CacheIsolation("5a17", 3, foreign=False)) == {
        "cache_prompt": True,
        "id_slot": 3,
    }
    assert isolated_body(adapter, CacheIsolation("5a17")) == {"cache_prompt": False}


def test_a_kept_cache_is_found_with_its_salt_only() -> None:
    class Kept:
        nbytes = 8

        def __deepcopy__(self, memo: object) -> Kept:
            return self

    kept, tokens = PrefixCache(1000), list(range(40))
    kept.keep(tokens, [Kept()], "one")
    more = [*tokens, 1, 2]
    assert kept.find(more, "other") == kept.find(more) == (None, 0)
    assert kept.find(more, "one")[1] == 40
    kept.keep(tokens, [Kept()], "other")
    assert len(kept) == 2 and kept.bytes == 16
    assert kept.find(more, "one")[1] == kept.find(more, "other")[1] == 40
