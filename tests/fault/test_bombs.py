"""Fault 19: malicious input. Each is refused with the reason, and other callers are not affected."""

from __future__ import annotations

import asyncio
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc import aio
from meterline_dev.mesh import Mesh
from meterline_protos.ingest.v1 import capture_pb2, capture_pb2_grpc

from tests.fault.conftest import SHARED, Lengths, MakeMesh
from tests.fault.figures import MIB, peak_of, report_figures
from tests.fault.load import Expected, Reporter, assert_counted, assert_exact, prepare
from tests.support.capture import Sample, columns, rows

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600), pytest.mark.req("T2.4", "T8.3")]

REPORT = "/meterline.ingest.v1.CaptureService/Report"
ALLOWED_GROWTH = 50 * MIB


@dataclass(frozen=True)
class Bomb:
    """Bytes of a request, and the expected error: a code, and a part of the details."""

    name: str
    make: Callable[[], bytes]
    code: str
    expected_detail: str
    compression: grpc.Compression = grpc.Compression.NoCompression


def part(field: int, content: bytes) -> bytes:
    """A field of a message in protobuf encoding."""
    raw = descriptor_pb2.UninterpretedOption(string_value=content).SerializeToString()
    return bytes([field << 3 | 2]) + raw[1:]


def with_subjects(count: int) -> bytes:
    request = columns(*[Sample() for _ in range(10)])
    request.columns.subjects.extend(f"{at}" for at in range(count))
    return request.SerializeToString()


def with_quantity_columns(count: int) -> bytes:
    request = columns(*[Sample() for _ in range(10)])
    for at in range(count):
        request.columns.quantities.add(name=f"q{at}", units=bytes(80))
    return request.SerializeToString()


def with_times(count: int) -> bytes:
    return capture_pb2.ReportRequest(
        tenant_id="acme", source="s", columns=capture_pb2.EventColumns(times_us=bytes(8 * count))
    ).SerializeToString()


def nested_groups() -> bytes:
    return b"\x0b" * 3_000_000 + b"\x0c" * 3_000


def with_made_up_names(events: int, names: int) -> bytes:
    samples = [Sample(quantities={f"q{row}-{at}": "1" for at in range(names)}) for row in range(events)]
    return rows(*samples).SerializeToString()


HEAD = capture_pb2.ReportRequest(tenant_id="acme", source="s").SerializeToString()
EMPTY_EVENT, EMPTY_ENTRY = part(1, b""), part(6, b"")

INVALID, EXHAUSTED = "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"

BOMBS = (
    Bomb(
        "a million events in rows",
        lambda: HEAD + part(4, EMPTY_EVENT * 1_000_000),
        INVALID,
        "rows.events: at most 1000",
    ),
    Bomb(
        "events just below the size that is counted",
        lambda: HEAD + part(4, EMPTY_EVENT * 65_000),
        INVALID,
        "rows.events: at most 1000",
    ),
    Bomb("a million events in columns", lambda: with_times(1_000_000), EXHAUSTED, "larger than max"),
    Bomb("half of them", lambda: with_times(500_000), INVALID, "columns: at most 10000 rows"),
    Bomb(
        "a text of 10 MB",
        lambda: rows(Sample(subject="s" * 10_000_000)).SerializeToString(),
        EXHAUSTED,
        "larger than max",
    ),
    Bomb(
        "an event of a million entries",
        lambda: HEAD + part(4, part(1, EMPTY_ENTRY * 1_000_000)),
        INVALID,
        "rows.events[0]: at most 64",
    ),
    Bomb(
        "a set of a million entries",
        lambda: HEAD + part(5, part(7, part(1, b"") * 1_000_000)),
        INVALID,
        "columns.dimension_sets: at most 64",
    ),
    Bomb("a million sets", lambda: HEAD + part(5, part(7, b"") * 1_000_000), INVALID, "columns: at most"),
    Bomb(
        "a dictionary that no row needs",
        lambda: with_subjects(50_000),
        INVALID,
        "columns.subjects: at most one a row",
    ),
    Bomb(
        "columns without end", lambda: with_quantity_columns(20_000), INVALID, "columns.quantities: at most"
    ),
    # Each of these events is refused separately, so the call as a whole succeeds.
    Bomb("names that somebody made up", lambda: with_made_up_names(1_000, 30), "OK", ""),
    Bomb("groups without end", nested_groups, INVALID, "request: "),
    Bomb("noise", lambda: bytes(range(1, 256)) * 10_000, INVALID, "request: "),
)


def gzip_bomb(lengths: Lengths) -> Bomb:
    size = (512 if lengths.rounds > 3 else 64) * MIB
    return Bomb(
        f"{size // MIB} MiB of zeros, compressed",
        lambda: bytes(size),
        EXHAUSTED,
        "larger than max",
        grpc.Compression.Gzip,
    )


async def answer(channel: aio.Channel, bomb: Bomb, data: bytes) -> tuple[str, str]:
    try:
        call: Any = channel.unary_unary(REPORT)
        await call(data, timeout=60, compression=bomb.compression)
    except aio.AioRpcError as error:
        return str(error.code().name), error.details() or ""
    return "OK", ""


async def throw(mesh: Mesh, bombs: tuple[Bomb, ...]) -> None:
    """Sends the bombs in turn, each by three concurrent calls."""
    options = [("grpc.max_send_message_length", -1)]
    async with mesh.channel("ingest", options) as channel:
        for bomb in bombs:
            data = await asyncio.to_thread(bomb.make)
            with peak_of(mesh.supervisor.pid("ingest")) as peak:
                answers = await asyncio.gather(*(answer(channel, bomb, data) for _ in range(3)))
            report_figures(f"{bomb.name}: {answers[0][0]}, ingest took {peak}")
            for code, details in answers:
                assert code == bomb.code, (bomb.name, code, details)
                assert bomb.expected_detail in details, (bomb.name, details)
            assert peak.grown < ALLOWED_GROWTH, bomb.name


async def test_bombs_are_refused_with_the_reason_and_affect_no_others(
    start_mesh: MakeMesh, lengths: Lengths
) -> None:
    expected = Expected()
    async with start_mesh() as mesh:
        reporter, stop = Reporter(mesh, expected), asyncio.Event()
        load = asyncio.create_task(reporter.run_until(stop))
        await reporter.more(200)
        await throw(mesh, (gzip_bomb(lengths), *BOMBS))
        await reporter.more(200)
        stop.set()
        await load
        # No other call was refused, and all their events were counted. On a busy machine a call may miss
        # its deadline.
        assert set(reporter.failures) <= {"DEADLINE_EXCEEDED", "UNAVAILABLE"}
        await assert_exact(mesh, expected)


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_parsing_before_counting_is_caught(start_mesh: MakeMesh) -> None:
    program = [sys.executable, "-m", "tests.fault.planted.reads_whatever_comes"]
    async with start_mesh(programs={"ingest": program}) as mesh:
        with pytest.raises(AssertionError, match="a million events in rows"):
            await throw(mesh, BOMBS[:1])


VALUES = {
    "NaN": "QUANTITY_NOT_FINITE",
    "sNaN": "QUANTITY_NOT_FINITE",
    "Infinity": "QUANTITY_NOT_FINITE",
    "-inf": "QUANTITY_NOT_FINITE",
    "1e400": "QUANTITY_OUT_OF_RANGE",
    "1e-400": "QUANTITY_TOO_PRECISE",
    "-1": "QUANTITY_NEGATIVE",
    str(2**63): "QUANTITY_OUT_OF_RANGE",
    str(2**64): "QUANTITY_OUT_OF_RANGE",
    "9" * 100_000: "QUANTITY_OUT_OF_RANGE",
    "1.5": "QUANTITY_TOO_PRECISE",
    "٣": "QUANTITY_NOT_A_DECIMAL",
    "1_0": "QUANTITY_NOT_A_DECIMAL",
    "": "QUANTITY_NOT_A_DECIMAL",
    "\0": "QUANTITY_NOT_A_DECIMAL",
}


@SHARED
async def test_invalid_values_are_named_and_valid_events_accepted(shared_mesh: Mesh) -> None:
    good = [Sample(quantities={"units": "7"}) for _ in range(20)]
    bad = [Sample(quantities={"units": value}) for value in VALUES]
    long = [Sample(id="i" * 100_000), Sample(subject="s" * 100_000)]
    # No value has more than 18 digits, so that no sum can overflow undetected.
    wide = columns(*[Sample(quantities={"units": "7"}) for _ in range(4)], tenant_id="values")
    wide.columns.quantities[0].units = struct.pack("<4q", 2**63 - 1, -(2**63), 10**18, -1)
    await prepare(shared_mesh, ("values",))
    expected = Expected({"values": {}})
    expected.add("values", good)
    async with shared_mesh.channel("ingest") as channel:
        stub = capture_pb2_grpc.CaptureServiceStub(channel)
        by_rows = await stub.Report(rows(*good, *bad, *long, tenant_id="values"), timeout=30)
        by_columns = await stub.Report(wide, timeout=30)
    reasons = [outcome.reason for outcome in by_rows.outcomes]
    assert reasons == [*VALUES.values(), "ID_TOO_LONG", "SUBJECT_TOO_LONG"]
    assert by_rows.accepted == len(good)
    # A value refused for its length is not returned in full.
    assert by_rows.ByteSize() < 20_000
    assert [outcome.reason for outcome in by_columns.outcomes] == [
        *["QUANTITY_OUT_OF_RANGE"] * 3,
        "QUANTITY_NEGATIVE",
    ]
    await assert_counted(shared_mesh, expected)
