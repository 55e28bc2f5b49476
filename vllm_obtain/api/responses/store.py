"""Kept responses, as one caller sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from vllm_obtain.api.responses.items import GivenItem, ItemReference, KeptItem
from vllm_obtain.api.responses.shapes import ResponseBody
from vllm_obtain.errors import PreviousResponseNotFound, ResponseNotFound, ServiceError
from vllm_obtain.log import get_logger
from vllm_obtain.messages import Fetch, Fetched, Forget, Keep, Kept
from vllm_obtain.supervisor.client import Supervisor
from vllm_obtain.supervisor.kept import MAX_CONVERSATION

log = get_logger("vllm_obtain.responses")


class Record(Struct):
    """A response as it is kept: with the items of its own input."""

    response: msgspec.Raw
    input: list[KeptItem]


class _Output(Struct):
    output: list[KeptItem]


_encode = msgspec.json.Encoder().encode
_record = msgspec.json.Decoder(Record)
_output = msgspec.json.Decoder(_Output)


class Responses:
    """What one caller can find.

    Args:
        supervisor: who keeps it.
        api_key: the caller's; what was kept for one key is not there for another.
    """

    def __init__(self, supervisor: Supervisor, api_key: str) -> None:
        self._supervisor = supervisor
        self._owner = hashlib.blake2b(api_key.encode(), digest_size=24).digest()

    def keep(self, response: ResponseBody, given: Sequence[KeptItem]) -> bool:
        """Keep a response.

        Args:
            response: the response.
            given: the items of its own input.

        Returns:
            Whether it is kept: it may be too large, or the supervisor gone.
        """
        body = _encode(Record(msgspec.Raw(_encode(response)), list(given)))
        items = [item.id or "" for item in (*given, *response.output)]
        if len(body) > MAX_CONVERSATION:
            return self._not_kept(response.id, "it is too large")
        message = Keep(self._owner, response.id, response.previous_response_id, items, body)
        try:
            done = self._supervisor.ask(message, Kept).done
        except ServiceError as error:
            return self._not_kept(response.id, error.message)
        return done or self._not_kept(response.id, "RESPONSES_STORE_MB has no room for it")

    def show(self, name: str) -> bytes:
        """Find a response.

        Returns:
            Its JSON.

        Raises:
            ResponseNotFound: it is not there.
        """
        return bytes(self._record(name).response)

    def conversation(self, name: str | None) -> list[KeptItem]:
        """Find all that a next request goes on from: input and output, the oldest first.

        Args:
            name: the request's `previous_response_id`.

        Raises:
            PreviousResponseNotFound: it is not there, or one before it is not.
        """
        if name is None:
            return []
        items: list[KeptItem] = []
        try:
            records = self._chain(name)
        except ResponseNotFound as error:
            raise PreviousResponseNotFound(error.what, "previous_response_id") from None
        for record in records:
            items += record.input
            items += _output.decode(record.response).output
        return items

    def input_items(self, name: str) -> list[KeptItem]:
        """Find what a response was made from, those before it included.

        Raises:
            ResponseNotFound: it is not there, or one before it is not.
        """
        *before, last = self._chain(name)
        items: list[KeptItem] = []
        for record in before:
            items += record.input
            items += _output.decode(record.response).output
        return items + last.input

    def resolve(self, given: Sequence[GivenItem]) -> list[KeptItem]:
        """Put the items in the place of references to them, and name those that have no id.

        Raises:
            ResponseNotFound: a reference leads nowhere.
        """
        items: list[KeptItem] = []
        for number, item in enumerate(given):
            found = item
            if isinstance(found, ItemReference):
                found = self._item(found.id, f"input[{number}].id")
            found.named()
            items.append(found)
        return items

    def forget(self, name: str) -> None:
        """Forget a response.

        Raises:
            ResponseNotFound: it is not there.
        """
        if not self._supervisor.ask(Forget(self._owner, name), Kept).done:
            raise ResponseNotFound(f"Response with id '{name}'")

    def _item(self, name: str, param: str) -> KeptItem:
        found = self._supervisor.ask(Fetch(self._owner, name, item=True), Fetched)
        for body in found.bodies:
            record = _record.decode(body)
            for item in (*record.input, *_output.decode(record.response).output):
                if item.id == name:
                    return item
        raise ResponseNotFound(f"Item with id '{name}'", param)

    def _record(self, name: str) -> Record:
        (record,) = self._found(Fetch(self._owner, name))
        return record

    def _chain(self, name: str) -> list[Record]:
        return self._found(Fetch(self._owner, name, whole=True))

    def _found(self, message: Fetch) -> list[Record]:
        found = self._supervisor.ask(message, Fetched)
        if found.missing is None:
            return [_record.decode(body) for body in found.bodies]
        if found.missing == message.id:
            raise ResponseNotFound(f"Response with id '{message.id}'")
        raise ResponseNotFound(
            f"Response '{found.missing}', which '{message.id}' went on from, was"
        )

    def _not_kept(self, name: str, reason: str) -> bool:
        log.warning("response not kept", response=name, reason=reason)
        return False
