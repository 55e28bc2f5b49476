"""Stored responses of one caller."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from vllm_obtain.control.client import SupervisorClient
from vllm_obtain.control.messages import (
    DeleteResponse,
    LoadResponse,
    ResponseLoaded,
    ResponseStored,
    StoreResponse,
)
from vllm_obtain.errors import PreviousResponseNotFound, ResponseNotFound, ServiceError
from vllm_obtain.gateway.responses.items import GivenItem, ItemReference, KeptItem
from vllm_obtain.gateway.responses.response_types import ResponseBody
from vllm_obtain.logs.setup import get_logger
from vllm_obtain.supervisor.response_store import MAX_CONVERSATION

log = get_logger("vllm_obtain.responses")


class Record(Struct):
    """A stored response with the items of its own input."""

    response: msgspec.Raw
    input: list[KeptItem]


class _Output(Struct):
    output: list[KeptItem]


_encode = msgspec.json.Encoder().encode
_record = msgspec.json.Decoder(Record)
_output = msgspec.json.Decoder(_Output)


class StoredResponses:
    """Access to the stored responses of one caller.

    Args:
        supervisor: the supervisor, which stores them.
        api_key: the caller's API key; each key has its own responses.
    """

    def __init__(self, supervisor: SupervisorClient, api_key: str) -> None:
        self._supervisor = supervisor
        self._owner = hashlib.blake2b(api_key.encode(), digest_size=24).digest()

    def store(self, response: ResponseBody, items: Sequence[KeptItem]) -> bool:
        """Store a response.

        Args:
            response: the response.
            items: the items of its own input.

        Returns:
            False if the response is too large or the supervisor cannot be reached.
        """
        body = _encode(Record(msgspec.Raw(_encode(response)), list(items)))
        ids = [item.id or "" for item in (*items, *response.output)]
        if len(body) > MAX_CONVERSATION:
            return self._log_not_stored(response.id, "the response is too large")
        message = StoreResponse(self._owner, response.id, response.previous_response_id, ids, body)
        try:
            done = self._supervisor.request(message, ResponseStored).done
        except ServiceError as error:
            return self._log_not_stored(response.id, error.message)
        return done or self._log_not_stored(response.id, "RESPONSES_STORE_MB is full")

    def show(self, name: str) -> bytes:
        """Load a response.

        Returns:
            Its JSON.

        Raises:
            ResponseNotFound: the response is not stored.
        """
        return bytes(self._record(name).response)

    def conversation(self, name: str | None) -> list[KeptItem]:
        """Load the conversation up to a response: input and output items, oldest first.

        Args:
            name: the request's `previous_response_id`.

        Raises:
            PreviousResponseNotFound: the response or one before it is not stored.
        """
        if name is None:
            return []
        items: list[KeptItem] = []
        try:
            records = self._chain(name)
        except ResponseNotFound as error:
            raise PreviousResponseNotFound(error.subject, "previous_response_id") from None
        for record in records:
            items += record.input
            items += _output.decode(record.response).output
        return items

    def input_items(self, name: str) -> list[KeptItem]:
        """Load the input items of a response, including the conversation before it.

        Raises:
            ResponseNotFound: the response or one before it is not stored.
        """
        *before, last = self._chain(name)
        items: list[KeptItem] = []
        for record in before:
            items += record.input
            items += _output.decode(record.response).output
        return items + last.input

    def resolve(self, references: Sequence[GivenItem]) -> list[KeptItem]:
        """Replace references by their items, and set missing ids.

        Raises:
            ResponseNotFound: a referenced item is not stored.
        """
        items: list[KeptItem] = []
        for number, item in enumerate(references):
            resolved = item
            if isinstance(resolved, ItemReference):
                resolved = self._item(resolved.id, f"input[{number}].id")
            resolved.fill_in()
            items.append(resolved)
        return items

    def delete(self, name: str) -> None:
        """Delete a response.

        Raises:
            ResponseNotFound: the response is not stored.
        """
        if not self._supervisor.request(DeleteResponse(self._owner, name), ResponseStored).done:
            raise ResponseNotFound(f"Response with id '{name}'")

    def _item(self, name: str, param: str) -> KeptItem:
        message = LoadResponse(self._owner, name, item=True)
        for body in self._supervisor.request(message, ResponseLoaded).bodies:
            record = _record.decode(body)
            for item in (*record.input, *_output.decode(record.response).output):
                if item.id == name:
                    return item
        raise ResponseNotFound(f"Item with id '{name}'", param)

    def _record(self, name: str) -> Record:
        (record,) = self._load(LoadResponse(self._owner, name))
        return record

    def _chain(self, name: str) -> list[Record]:
        return self._load(LoadResponse(self._owner, name, whole=True))

    def _load(self, message: LoadResponse) -> list[Record]:
        reply = self._supervisor.request(message, ResponseLoaded)
        if reply.missing is None:
            return [_record.decode(body) for body in reply.bodies]
        if reply.missing == message.id:
            raise ResponseNotFound(f"Response with id '{message.id}'")
        raise ResponseNotFound(f"Response '{reply.missing}', which '{message.id}' continues, was")

    def _log_not_stored(self, name: str, reason: str) -> bool:
        log.warning("response not stored", response=name, reason=reason)
        return False
