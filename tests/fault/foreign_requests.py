"""Requests of any RPC, filled with the names of another tenant's objects.

RPCs and their fields are discovered from the descriptors, so that new ones are included.
"""

from __future__ import annotations

import importlib
import random
import time
import uuid
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import aio
from meterline.rpc import paging
from meterline_dev.mesh import Mesh

ROOT: Final = Path(__file__).resolve().parents[2]

# RPCs of operators, for no tenant or for all, and why they name no tenant.
OPERATORS: Final = {
    "aggregate.v1.MetersService/CreateMeter": "meters are the same for all tenants",
    "aggregate.v1.MetersService/DeleteMeter": "meters are the same for all tenants",
    "aggregate.v1.MetersService/ReferToMeter": "meters are the same for all tenants",
    "identity.v1.CredentialsService/VerifyApiKey": "services ask it, and the key says whose it is",
    "identity.v1.TenantsService/BatchGetTenants": "services ask it, for names that they have met",
    "identity.v1.TenantsService/ListTenants": "lists all tenants",
    "ingest.v1.CaptureService/ReportSigned": "the signed configuration names the tenant",
    "ingest.v1.EventTypesService/DescribeEventType": "meters, which it is asked for, are all tenants'",
    "ingest.v1.LimitsService/ListPlanLimits": "plans are the same for all tenants",
    "ingest.v1.LimitsService/PutPlanLimits": "plans are the same for all tenants",
    "operations.v1.DeadLettersService/ListDeadLetters": "a message may be of many tenants",
    "operations.v1.DeadLettersService/RedriveDeadLetters": "a message may be of many tenants",
    "publisher.v1.PricesService/PutPrice": "plans are the same for all tenants",
    "publisher.v1.PricesService/WithdrawPrice": "plans are the same for all tenants",
    "publisher.v1.PricesService/ArchivePlan": "plans are the same for all tenants",
    "publisher.v1.PricesService/RestorePlan": "plans are the same for all tenants",
    "publisher.v1.PricesService/PutDelivery": "plans are the same for all tenants",
    "publisher.v1.PricesService/ListDeliveries": "plans are the same for all tenants",
}

# Shorter texts are ordinary words, which do not identify a tenant.
_SECRET_LENGTH: Final = 6
_DAY: Final = 86_400


@dataclass(frozen=True)
class Rpc:
    method: MethodDescriptor

    @property
    def name(self) -> str:
        """`ingest.v1.EventsService/GetEvent`."""
        return f"{self.method.containing_service.full_name.removeprefix('meterline.')}/{self.method.name}"

    @property
    def service(self) -> str:
        return self.name.partition(".")[0]

    @property
    def names_a_tenant(self) -> bool:
        return "tenant_id" in self.method.input_type.fields_by_name

    def request(self) -> Message:
        return GetMessageClass(self.method.input_type)()

    async def call(self, channel: aio.Channel, request: Message) -> bytes:
        """The raw answer; for an error, its status and details."""
        method, sent = self.method, request.SerializeToString()
        path = f"/{method.containing_service.full_name}/{method.name}"
        # Requests and answers are raw bytes.
        any_channel: Any = channel
        try:
            if method.client_streaming:
                answers = any_channel.stream_stream(path)(iter([sent]), timeout=10)
            elif method.server_streaming:
                answers = any_channel.unary_stream(path)(sent, timeout=10)
            else:
                return bytes(await any_channel.unary_unary(path)(sent, timeout=10))
            return b"".join([answer async for answer in answers])
        except aio.AioRpcError as error:
            details = b"".join(
                value if isinstance(value, bytes) else value.encode()
                for _, value in error.trailing_metadata() or ()
            )
            return (error.details() or "").encode() + details


def all_rpcs() -> list[Rpc]:
    """The RPCs of all services of the protos."""
    found = []
    for path in sorted((ROOT / "protos").rglob("*.proto")):
        parts = path.relative_to(ROOT / "protos" / "meterline").with_suffix("").parts
        module = importlib.import_module(f"meterline_protos.{'.'.join(parts)}_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            found += [Rpc(method) for method in service.methods]
    return found


@dataclass
class Belongings:
    """Texts of a tenant's answers, by the names of their fields."""

    by_field: dict[str, set[str]] = field(default_factory=dict)

    def add(self, name: str, text: str) -> None:
        if text:
            self.by_field.setdefault(name, set()).add(text)

    def names(self) -> dict[str, set[str]]:
        """Names that another tenant may know and ask for."""
        return {
            name: texts
            for name, texts in self.by_field.items()
            if name.endswith(("_id", "_token")) or name in ("key", "name", "namespace", "subject")
        }

    def secrets(self) -> set[str]:
        """Texts that no request of another tenant contains, so that an answer with one of them is a leak."""
        said = {text for texts in self.names().values() for text in texts}
        known = {text for texts in self.by_field.values() for text in texts}
        return {text for text in known - said if len(text) >= _SECRET_LENGTH}


class Filler:
    """Fills requests of a tenant with known names, mostly from fields of the same name."""

    def __init__(self, tenant_id: str, names: Mapping[str, Collection[str]], seed: int) -> None:
        self._tenant_id = tenant_id
        self._names = {name: sorted(texts) for name, texts in names.items() if texts}
        self._pool = sorted({text for texts in names.values() for text in texts})
        self._raw = [uuid.UUID(text).bytes for text in self._pool if _is_uuid(text)]
        self._random = random.Random(seed)

    def fill(self, message: Message, depth: int = 0) -> None:
        descriptor: Any = message.DESCRIPTOR
        chosen = {each.name: self._random.choice(each.fields).name for each in descriptor.oneofs}
        for each in descriptor.fields:
            if each.containing_oneof is not None and chosen[each.containing_oneof.name] != each.name:
                continue
            if each.name in ("tenant_id", "tenants"):
                self._put(message, each, self._tenant_id)
            elif self._random.random() < (0.6 if depth else 0.7) and depth < 5:
                self._field(message, each, depth)

    def widest(self, message: Any) -> None:
        """The widest request: all times, no filter, and only required names."""
        fields: Any = message.DESCRIPTOR.fields_by_name
        for name in fields:
            match name:
                case "tenant_id":
                    message.tenant_id = self._tenant_id
                case "range" | "time":
                    getattr(message, name).start_time.FromSeconds(int(time.time()) - 60 * _DAY)
                    getattr(message, name).end_time.FromSeconds(int(time.time()) + _DAY)
                case "meter":
                    message.meter = "units"
                case "by_group" | "grain":
                    setattr(message, name, 4 if name == "grain" else True)
                case "namespace":
                    message.namespace = "products"

    def _field(self, message: Message, each: FieldDescriptor, depth: int) -> None:
        if each.message_type is not None and each.message_type.GetOptions().map_entry:
            for _ in range(self._random.randrange(3)):
                value_type = each.message_type.fields_by_name["value"]
                if value_type.message_type is None:
                    getattr(message, each.name)[self._text("")] = self._value(value_type)
        elif each.message_type is not None:
            target = getattr(message, each.name)
            for one in (
                [target.add() for _ in range(self._random.randrange(3))] if each.is_repeated else [target]
            ):
                if isinstance(one, Timestamp):
                    one.FromSeconds(int(time.time()) + self._random.randrange(-40 * _DAY, 2 * _DAY))
                else:
                    one.SetInParent()
                    self.fill(one, depth + 1)
        else:
            self._put(message, each, self._value(each))

    def _put(self, message: Message, each: FieldDescriptor, value: Any) -> None:
        if each.is_repeated:
            getattr(message, each.name).append(value)
        else:
            setattr(message, each.name, value)

    def _value(self, each: Any) -> Any:
        match each.cpp_type:
            case FieldDescriptor.CPPTYPE_STRING if each.type == FieldDescriptor.TYPE_BYTES:
                return self._random.choice(self._raw or [b""])
            case FieldDescriptor.CPPTYPE_STRING:
                return self._text(each.name)
            case FieldDescriptor.CPPTYPE_BOOL:
                return self._random.random() < 0.5
            case FieldDescriptor.CPPTYPE_ENUM:
                return self._random.choice(each.enum_type.values).number
            case FieldDescriptor.CPPTYPE_DOUBLE | FieldDescriptor.CPPTYPE_FLOAT:
                return 1.0
        return self._random.choice([0, 1, 2, 100])

    def _text(self, name: str) -> str:
        if name.endswith("_token"):
            # Values that answers to the other tenant contain, as far as they can be guessed.
            text, number = (
                self._random.choice(self._pool),
                int(time.time() * 1e6) - self._random.randrange(10**9),
            )
            keys: list[tuple[paging.Key, ...]] = [(text,), (number, text), (text, text), (number, text, text)]
            return paging.token(*self._random.choice(keys)) if self._random.random() < 0.7 else text
        if name == "meter":
            return self._random.choice(["calls", "units"])
        if name in ("type", "event_type"):
            return self._random.choice(["api.request", "", self._random.choice(self._pool)])
        fitting = self._names.get(name) or self._names.get(name.removesuffix("s"))
        if fitting and self._random.random() < 0.8:
            return self._random.choice(fitting)
        return self._random.choice(self._pool)


def texts_of(message: Message) -> Iterator[tuple[str, str]]:
    """Every text in a message, at any depth, with the name of its field."""
    for each, value in message.ListFields():
        if each.message_type is not None and each.message_type.GetOptions().map_entry:
            for inner in value.values():
                if isinstance(inner, Message):
                    yield from texts_of(inner)
                else:
                    yield each.name, str(inner)
        elif each.message_type is not None:
            for one in value if each.is_repeated else [value]:
                yield from texts_of(one)
        elif each.cpp_type == FieldDescriptor.CPPTYPE_STRING and each.type != FieldDescriptor.TYPE_BYTES:
            for text in value if each.is_repeated else [value]:
                yield each.name, text


def _is_uuid(text: str) -> bool:
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True


async def answers(
    mesh: Mesh, rpcs: Iterable[Rpc], filler: Filler, rounds: int
) -> AsyncIterator[tuple[Rpc, Message, bytes]]:
    """Calls each RPC `rounds` times, first with the widest request."""
    channels: dict[str, aio.Channel] = {}
    try:
        for turn in range(rounds):
            for rpc in rpcs:
                if rpc.service not in channels:
                    channels[rpc.service] = mesh.channel(rpc.service)
                request = rpc.request()
                (filler.fill if turn else filler.widest)(request)
                yield rpc, request, await rpc.call(channels[rpc.service], request)
    finally:
        for channel in channels.values():
            await channel.close()
