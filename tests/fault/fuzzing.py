"""Sends mutated requests to every RPC of a mesh, and records those that made a service fail."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message import Message
from grpc import aio
from meterline.auth.principals import Permission
from meterline_dev import channels
from meterline_dev.mesh import Mesh
from meterline_protos.events.v1 import events_pb2
from meterline_protos.ingest.v1 import capture_pb2

from tests.architecture.test_access import rules
from tests.fault.foreign_requests import Rpc
from tests.fault.mutations import Mutator
from tests.fault.request_world import World
from tests.fault.valid_requests import OPERATIONS

RULES: Final = rules()
CONCURRENT: Final = 16
CALL_SECONDS: Final = 60.0
_STREAM_ATTEMPTS: Final = 10
_OVERWRITTEN: Final = "Internal error from Core"
# Statuses that no request may get while all services run. A status too large for its caller is a fault too.
FAULTS: Final = frozenset(
    {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED", "DATA_LOSS", "UNIMPLEMENTED", "CANCELLED"}
)


@dataclass(frozen=True)
class FuzzCall:
    """One call: its RPC and the messages to send."""

    rpc: Rpc
    service: str
    sent: tuple[bytes, ...]
    number: int


@dataclass
class Outcome:
    """Results of all calls: counts by RPC and status, and the faults."""

    calls_by_status: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def note(self, fuzz_call: FuzzCall, code: str, details: str) -> None:
        self.calls_by_status[fuzz_call.rpc.name, code] += 1
        if code in FAULTS or "metadata size" in details:
            sent = ", ".join(f"bytes.fromhex({one.hex()!r})" for one in fuzz_call.sent)
            self.faults.append(f"{fuzz_call.rpc.name} #{fuzz_call.number}: {code} {details}\n  sent {sent}")

    def of_rpc(self, name: str) -> set[str]:
        return {code for rpc, code in self.calls_by_status if rpc == name}


class FuzzClient:
    """Calls with all permissions, so that no call is refused for its caller."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._peer = mesh.keys.service_signer("ingest")
        self._channels: dict[tuple[str, bool], aio.Channel] = {}

    @classmethod
    @asynccontextmanager
    async def of(cls, mesh: Mesh) -> AsyncIterator[FuzzClient]:
        fuzzer = cls(mesh)
        try:
            yield fuzzer
        finally:
            for channel in fuzzer._channels.values():
                await channel.close()

    async def send(self, fuzz_call: FuzzCall) -> tuple[str, str]:
        """Sends a call; returns the name of its status, and the text."""
        method = fuzz_call.rpc.method
        path = f"/{method.containing_service.full_name}/{method.name}"
        internal = RULES[path[1:]].permission is Permission.INTERNAL
        channel: Any = self._channel(fuzz_call.service, internal)
        try:
            if method.client_streaming:
                begin = partial(channel.stream_stream(path), timeout=CALL_SECONDS)
                return await _converse(begin, fuzz_call.sent)
            if method.server_streaming:
                async for _ in channel.unary_stream(path)(fuzz_call.sent[0], timeout=CALL_SECONDS):
                    pass
            else:
                await channel.unary_unary(path)(fuzz_call.sent[0], timeout=CALL_SECONDS)
        except aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        return grpc.StatusCode.OK.name, ""

    def _channel(self, service: str, internal: bool) -> aio.Channel:
        if (service, internal) not in self._channels:
            options = [("grpc.max_receive_message_length", 64 << 20)]
            # Operators may not call RPCs between services.
            token = self._peer.token if internal else self._mesh.token
            self._channels[service, internal] = channels.channel(self._mesh.address(service), token, options)
        return self._channels[service, internal]


async def _converse(begin: Callable[[], Any], sent: Sequence[bytes]) -> tuple[str, str]:
    """The status with which the server ends a stream, perhaps before all messages are sent.

    When a write fails since the server has ended the stream, grpc.aio may overwrite the status that it
    sent (grpc issue 36066). Then the stream is sent again.
    """
    for _ in range(_STREAM_ATTEMPTS):
        status, details = await _converse_once(begin(), sent)
        if details != _OVERWRITTEN:
            break
    return status, details


async def _converse_once(call: Any, sent: Sequence[bytes]) -> tuple[str, str]:
    with suppress(aio.AioRpcError, asyncio.InvalidStateError):
        for each in sent:
            await call.write(each)
        await call.done_writing()
        while await call.read() is not aio.EOF:
            pass
    return (await call.code()).name, await call.details() or ""


def valid_calls(rpcs: Sequence[Rpc], requests: Mapping[str, Sequence[Message]]) -> Iterator[FuzzCall]:
    for rpc in rpcs:
        for service in _services(rpc):
            for request in requests[rpc.name]:
                yield FuzzCall(rpc, service, (request.SerializeToString(),), -1)


def mutated_calls(
    rpcs: Sequence[Rpc], requests: Mapping[str, Sequence[Message]], world: World, seed: int, count: int
) -> Iterator[FuzzCall]:
    """Mutations of each RPC in turn, so that all are called equally often."""
    others = [request.SerializeToString() for found in requests.values() for request in found]
    for number in range(count):
        rpc = rpcs[number % len(rpcs)]
        turn = number // len(rpcs)
        found = requests[rpc.name]
        valid = found[turn % len(found)]
        mutator = Mutator(f"{seed}:{rpc.name}:{turn}", world.foreign, others)
        services = _services(rpc)
        yield FuzzCall(rpc, services[turn % len(services)], _sent(rpc, valid, mutator, world), number)


def _services(rpc: Rpc) -> tuple[str, ...]:
    return OPERATIONS if rpc.service == "operations" else (rpc.service,)


def _sent(rpc: Rpc, valid: Message, mutator: Mutator, world: World) -> tuple[bytes, ...]:
    """Mostly mutates the message inside a bytes field, if there is one: it comes from callers too."""
    if isinstance(valid, capture_pb2.ReportSignedRequest) and mutator.chance(0.7):
        body = mutator.mutated(capture_pb2.ReportRequest.FromString(valid.body))
        return (world.client.request(body).SerializeToString(),)
    if rpc.method.name == "PreviewChanges" and mutator.chance(0.7):
        changed = type(valid)()
        changed.CopyFrom(valid)
        changed.events = mutator.mutated(events_pb2.EventsAccepted.FromString(world.accepted))  # type: ignore[attr-defined]
        return (changed.SerializeToString(),)
    data = mutator.mutated(valid)
    if rpc.method.client_streaming:
        plain = valid.SerializeToString()
        return (plain, data, plain)
    return (data,)


async def send_all(fuzzer: FuzzClient, fuzz_calls: Iterator[FuzzCall]) -> Outcome:
    """Sends all calls, `CONCURRENT` at a time."""
    outcome = Outcome()

    async def work() -> None:
        for fuzz_call in fuzz_calls:
            outcome.note(fuzz_call, *await fuzzer.send(fuzz_call))

    await asyncio.gather(*(work() for _ in range(CONCURRENT)))
    return outcome


def unhandled(logs: Path) -> list[str]:
    """Unexpected exceptions in the logs of services."""
    found = []
    for path in sorted(logs.glob("*.log")):
        for line in path.read_text(errors="replace").splitlines():
            if "Traceback (most recent call last)" in line:
                found.append(f"{path.stem}: {_readable(line)}")
    return found


def _readable(line: str) -> str:
    try:
        return str(json.loads(line)["exception"])
    except (ValueError, KeyError, TypeError):
        return line
