from __future__ import annotations

import pytest

from vllm_obtain.control.messages import DeleteResponse, LoadResponse, ResponseLoaded, StoreResponse
from vllm_obtain.errors import InvalidRequest
from vllm_obtain.supervisor import response_store
from vllm_obtain.supervisor.response_store import ResponseStore

ME, YOU = b"me", b"you"
# Room for three responses of `keep` below, not for four.
SIZE = 1000 + response_store._OVERHEAD + len("item_a")
ROOM = 3 * SIZE + SIZE // 2


def keep(store: ResponseStore, name: str, previous: str | None = None, size: int = 1000) -> bool:
    return store.store(StoreResponse(ME, name, previous, [f"item_{name}"], name.encode() * size))


def names(store: ResponseStore, name: str, whole: bool = False) -> list[str] | str | None:
    found = store.load(LoadResponse(ME, name, whole))
    return found.missing or [chr(body[0]) for body in found.bodies]


def test_a_response_is_found_by_its_owner_alone() -> None:
    store = ResponseStore(ROOM)
    assert keep(store, "a")
    assert names(store, "a") == ["a"]
    assert store.load(LoadResponse(YOU, "a")) == ResponseLoaded([], "a")
    assert not store.delete(DeleteResponse(YOU, "a"))
    assert store.load(LoadResponse(ME, "item_a", item=True)).bodies == [b"a" * 1000]
    assert store.load(LoadResponse(ME, "item_a")).missing == "item_a", "no response has that name"
    assert store.load(LoadResponse(YOU, "item_a", item=True)).missing == "item_a"


def test_a_conversation_comes_from_its_beginning() -> None:
    store = ResponseStore(ROOM)
    keep(store, "a")
    keep(store, "b", "a")
    keep(store, "c", "b")
    assert names(store, "c", whole=True) == ["a", "b", "c"]
    assert store.delete(DeleteResponse(ME, "b"))
    assert names(store, "c", whole=True) == "b", "the one that is missing is named"
    assert names(store, "c") == ["c"]


def test_what_was_used_least_recently_makes_room() -> None:
    store = ResponseStore(ROOM)
    for name in "abc":
        keep(store, name)
    keep(store, "d")
    assert names(store, "a") == "a"
    assert store.size == {"entries": 3, "bytes": 3 * SIZE}
    assert names(store, "b") == ["b"]
    keep(store, "e")
    assert names(store, "c") == "c" and names(store, "b") == ["b"]


def test_a_conversation_that_goes_on_keeps_its_beginning() -> None:
    store = ResponseStore(ROOM)
    keep(store, "a")
    keep(store, "x")
    keep(store, "b", "a")
    keep(store, "c", "b")
    assert names(store, "x") == "x"
    assert names(store, "c", whole=True) == ["a", "b", "c"]


def test_forgetting_gives_the_room_back() -> None:
    store = ResponseStore(ROOM)
    keep(store, "a")
    assert store.delete(DeleteResponse(ME, "a")) and not store.delete(DeleteResponse(ME, "a"))
    assert store.size == {"entries": 0, "bytes": 0}
    assert store.load(LoadResponse(ME, "item_a", item=True)).missing == "item_a"


def test_what_is_too_large_is_not_kept_and_costs_nobody_a_place() -> None:
    store = ResponseStore(ROOM)
    keep(store, "a")
    assert not keep(store, "b", size=ROOM)
    assert names(store, "a") == ["a"]
    assert not keep(ResponseStore(0), "a"), "no room at all"


def test_the_number_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_store, "MAX_RESPONSES", 2)
    store = ResponseStore(ROOM)
    for name in "abc":
        keep(store, name, size=1)
    assert names(store, "a") == "a" and store.size["entries"] == 2


def test_a_conversation_that_cannot_be_sent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response_store, "MAX_CONVERSATION", 2 * SIZE)
    store = ResponseStore(ROOM)
    keep(store, "a")
    keep(store, "b", "a")
    keep(store, "c", "b")
    with pytest.raises(InvalidRequest, match="Start a new one") as caught:
        store.load(LoadResponse(ME, "c", whole=True))
    assert caught.value.param == "previous_response_id"
    assert names(store, "b", whole=True) == ["a", "b"]


@pytest.mark.timeout(5)
def test_a_circle_has_no_beginning() -> None:
    store = ResponseStore(ROOM)
    keep(store, "a", "a")
    keep(store, "b", "a")
    assert names(store, "b", whole=True) == "a"
    assert names(store, "a") == ["a"]
