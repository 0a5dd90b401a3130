"""Sends mutated requests to every RPC of a mesh, and remembers which of them made a service fail."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
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
from tests.fault.honest import OPERATIONS
from tests.fault.honest_world import World
from tests.fault.mutations import Mutator
from tests.fault.strangers import Rpc

RULES: Final = rules()
CONCURRENT: Final = 16
CALL_SECONDS: Final = 60.0
_STREAM_ATTEMPTS: Final = 10
_OVERWRITTEN: Final = "Internal error from Core"
# What no request may be answered with, whatever it is, while nothing is stopped. A status that is too large
# for its caller is none either.
FAULTS: Final = frozenset(
    {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED", "DATA_LOSS", "UNIMPLEMENTED", "CANCELLED"}
)


@dataclass(frozen=True)
class Shot:
    """One call: which RPC of which service, and the messages that are sent."""

    rpc: Rpc
    service: str
    sent: tuple[bytes, ...]
    number: int


@dataclass
class Outcome:
    """What came of all calls: how many by RPC and status, and those that were faults."""

    told: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def note(self, shot: Shot, code: str, details: str) -> None:
        self.told[shot.rpc.name, code] += 1
        if code in FAULTS or "metadata size" in details:
            sent = ", ".join(f"bytes.fromhex({one.hex()!r})" for one in shot.sent)
            self.faults.append(f"{shot.rpc.name} #{shot.number}: {code} {details}\n  sent {sent}")

    def of_rpc(self, name: str) -> set[str]:
        return {code for rpc, code in self.told if rpc == name}


class Gun:
    """Calls as somebody who may do everything, so that nothing is refused for who asks."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._peer = mesh.keys.service_signer("ingest")
        self._channels: dict[tuple[str, bool], aio.Channel] = {}

    @classmethod
    @asynccontextmanager
    async def of(cls, mesh: Mesh) -> AsyncIterator[Gun]:
        gun = cls(mesh)
        try:
            yield gun
        finally:
            for channel in gun._channels.values():
                await channel.close()

    async def fire(self, shot: Shot) -> tuple[str, str]:
        """The name of the status, and its text."""
        method = shot.rpc.method
        path = f"/{method.containing_service.full_name}/{method.name}"
        internal = RULES[path[1:]].permission is Permission.INTERNAL
        channel: Any = self._channel(shot.service, internal)
        try:
            if method.client_streaming:
                return await _converse(lambda: channel.stream_stream(path)(timeout=CALL_SECONDS), shot.sent)
            if method.server_streaming:
                async for _ in channel.unary_stream(path)(shot.sent[0], timeout=CALL_SECONDS):
                    pass
            else:
                await channel.unary_unary(path)(shot.sent[0], timeout=CALL_SECONDS)
        except aio.AioRpcError as error:
            return error.code().name, error.details() or ""
        return grpc.StatusCode.OK.name, ""

    def _channel(self, service: str, internal: bool) -> aio.Channel:
        if (service, internal) not in self._channels:
            options = [("grpc.max_receive_message_length", 64 << 20)]
            # What services ask of each other is not for operators.
            token = self._peer.token if internal else self._mesh.token
            self._channels[service, internal] = channels.channel(self._mesh.address(service), token, options)
        return self._channels[service, internal]


async def _converse(begin: Callable[[], Any], sent: Sequence[bytes]) -> tuple[str, str]:
    """The status that the server ends a stream with, perhaps before all was sent.

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


def honest_shots(rpcs: Sequence[Rpc], requests: Mapping[str, Sequence[Message]]) -> Iterator[Shot]:
    for rpc in rpcs:
        for service in _services(rpc):
            for request in requests[rpc.name]:
                yield Shot(rpc, service, (request.SerializeToString(),), -1)


def mutated_shots(
    rpcs: Sequence[Rpc], requests: Mapping[str, Sequence[Message]], world: World, seed: int, count: int
) -> Iterator[Shot]:
    """Each RPC in turn, so that all of them come equally often."""
    others = [request.SerializeToString() for found in requests.values() for request in found]
    for number in range(count):
        rpc = rpcs[number % len(rpcs)]
        turn = number // len(rpcs)
        found = requests[rpc.name]
        honest = found[turn % len(found)]
        mutator = Mutator(f"{seed}:{rpc.name}:{turn}", world.foreign, others)
        services = _services(rpc)
        yield Shot(rpc, services[turn % len(services)], _sent(rpc, honest, mutator, world), number)


def _services(rpc: Rpc) -> tuple[str, ...]:
    return OPERATIONS if rpc.service == "operations" else (rpc.service,)


def _sent(rpc: Rpc, honest: Message, mutator: Mutator, world: World) -> tuple[bytes, ...]:
    """Mostly what lies in bytes is mutated where there is something: it comes from callers as well."""
    if isinstance(honest, capture_pb2.ReportSignedRequest) and mutator.chance(0.7):
        body = mutator.mutated(capture_pb2.ReportRequest.FromString(honest.body))
        return (world.client.request(body).SerializeToString(),)
    if rpc.method.name == "PreviewChanges" and mutator.chance(0.7):
        changed = type(honest)()
        changed.CopyFrom(honest)
        changed.events = mutator.mutated(events_pb2.EventsAccepted.FromString(world.accepted))  # type: ignore[attr-defined]
        return (changed.SerializeToString(),)
    data = mutator.mutated(honest)
    if rpc.method.client_streaming:
        plain = honest.SerializeToString()
        return (plain, data, plain)
    return (data,)


async def fire_all(gun: Gun, shots: Iterator[Shot]) -> Outcome:
    """All of them, `CONCURRENT` at a time."""
    outcome = Outcome()

    async def work() -> None:
        for shot in shots:
            outcome.note(shot, *await gun.fire(shot))

    await asyncio.gather(*(work() for _ in range(CONCURRENT)))
    return outcome


def unhandled(logs: Path) -> list[str]:
    """What services logged of exceptions that nothing expected."""
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
