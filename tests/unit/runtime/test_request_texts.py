"""Requests with a NUL in any text are refused by one traversal of the whole request."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import struct_pb2
from google.protobuf.message import Message
from meterline.auth.rules import rules_of
from meterline.errors import InvalidArgumentError
from meterline.rpc import texts
from meterline_protos.aggregate.v1 import usage_pb2
from meterline_protos.ingest.v1 import capture_pb2, catalogue_pb2, corrections_pb2, timers_pb2
from meterline_protos.operations.v1 import dead_letters_pb2
from meterline_protos.publisher.v1 import prices_pb2

pytestmark = pytest.mark.req("T8.3")

NUL = "a\0b"


def struct(value: Any) -> struct_pb2.Struct:
    body = struct_pb2.Struct()
    body.update(value)
    return body


PLACES: list[tuple[Message, str]] = [
    (catalogue_pb2.GetEntryRequest(key=NUL), "key"),
    (catalogue_pb2.DeleteEntriesRequest(keys=["a", NUL]), "keys[1]"),
    (
        catalogue_pb2.PutEntriesRequest(
            entries=[catalogue_pb2.CatalogueEntry(), catalogue_pb2.CatalogueEntry(namespace=NUL)]
        ),
        "entries[1].namespace",
    ),
    (
        catalogue_pb2.PutEntriesRequest(entries=[catalogue_pb2.CatalogueEntry(attributes={"x": NUL})]),
        'entries[0].attributes["x"]',
    ),
    (timers_pb2.StartTimerRequest(dimensions={NUL: "x"}), 'dimensions["a\\u0000b"]'),
    (corrections_pb2.AmendEventRequest(changes=corrections_pb2.EventChanges(subject=NUL)), "changes.subject"),
    (
        prices_pb2.PutPriceRequest(price=prices_pb2.Price(body=struct({"tiers": [{"unit": NUL}]}))),
        'price.body.fields["tiers"].list_value.values[0].struct_value.fields["unit"].string_value',
    ),
]


@pytest.mark.parametrize(("request_", "path"), PLACES, ids=[path for _, path in PLACES])
def test_nul_is_found_in_any_field(request_: Message, path: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        texts.check_texts(request_)
    assert (caught.value.field, caught.value.reason) == (path, "TEXT_INVALID")


def test_zero_bytes_and_numbers_are_accepted() -> None:
    texts.check_texts(usage_pb2.PreviewChangesRequest(tenant_id="acme", events=b"\0\0"))
    texts.check_texts(usage_pb2.QueryUsageRequest(tenant_id="acme", by_group=True))


def test_nul_in_an_event_does_not_refuse_the_request() -> None:
    name = corrections_pb2.DESCRIPTOR.services_by_name["CorrectionsService"].full_name
    rule = rules_of([name])[f"{name}/ImportEvents"]
    rows = capture_pb2.EventRows(events=[capture_pb2.Event(subject=NUL)])
    texts.check_texts(corrections_pb2.ImportEventsRequest(rows=rows), rule.judged_singly)
    with pytest.raises(InvalidArgumentError):
        texts.check_texts(corrections_pb2.ImportEventsRequest(rows=rows, reason=NUL), rule.judged_singly)


def largest() -> catalogue_pb2.PutEntriesRequest:
    attributes = {f"attribute-{at}": "x" for at in range(32)}
    entries = [
        catalogue_pb2.CatalogueEntry(namespace="n", key=str(at), attributes=attributes) for at in range(1_000)
    ]
    return catalogue_pb2.PutEntriesRequest(tenant_id="acme", entries=entries)


def test_largest_request_of_each_handler_passes() -> None:
    texts.check_texts(largest())


@pytest.mark.parametrize(
    "request_",
    [
        catalogue_pb2.PutEntriesRequest(entries=[catalogue_pb2.CatalogueEntry()] * 1_000_000),
        catalogue_pb2.DeleteEntriesRequest(keys=[""] * 1_000_000),
        dead_letters_pb2.ListDeadLettersRequest(states=[dead_letters_pb2.DEAD_LETTER_STATE_OPEN] * 1_000_000),
    ],
    ids=["messages", "texts", "numbers"],
)
def test_request_with_too_many_parts_is_refused(request_: Message) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        texts.check_texts(request_)
    assert caught.value.reason == "REQUEST_TOO_LARGE"
