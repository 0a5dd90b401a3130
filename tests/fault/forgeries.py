"""Forged calls: signed calls changed in every way that an attacker without the secret could try."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from meterline_ingest.capture.rules.signatures import signature
from meterline_protos.identity.v1 import credentials_pb2
from meterline_protos.ingest.v1 import capture_pb2

from tests.support.capture import Sample, rows
from tests.support.credentials import SignedClient

Call = capture_pb2.ReportSignedRequest
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"


class Forger:
    """An attacker who knows a client's configuration and calls, and other clients, but not its secret."""

    def __init__(self, victim: SignedClient, others: list[SignedClient], seed: int) -> None:
        self._victim = victim
        self._others = others
        self._random = random.Random(seed)
        self._ways: list[Callable[[Call], None]] = [
            self._flip_config,
            self._cut_config,
            self._widen_config,
            self._swap_config,
            self._rename_key,
            self._rename_call,
            self._move_in_time,
            self._flip_body,
            self._cut_body,
            self._add_to_body,
            self._swap_body,
            self._flip_signature,
            self._cut_signature,
            self._make_up_signature,
            self._reuse_signature,
            self._sign_with_another_secret,
            self._move_between_parts,
        ]

    def forgeries(self, count: int) -> Iterator[Call]:
        """Calls that differ from a valid one in one or two ways, and are not valid for another client."""
        made = 0
        while made < count:
            valid = self.valid()
            call = Call()
            call.CopyFrom(valid)
            for way in self._random.sample(self._ways, 1 if made % 3 else 2):
                way(call)
            if call != valid and not self._is_valid_for_another_client(call):
                made += 1
                yield call

    def _is_valid_for_another_client(self, call: Call) -> bool:
        """Whether it has another client's configuration and its secret's signature: a valid call."""
        mine = call.id, call.timestamp_ms, call.body
        return any(
            call.config == other.config and call.signature == signature(other.secret, *mine)
            for other in self._others
        )

    def valid(self) -> Call:
        return self._victim.request(_body())

    def sign(self, id: str, timestamp_ms: int, body: bytes) -> bytes:
        """Signs with the victim's secret, for tests of the signed content."""
        return signature(self._victim.secret, id, timestamp_ms, body)

    def _bytes(self, length: int) -> bytes:
        return self._random.randbytes(length)

    def _flipped(self, data: bytes) -> bytes:
        if not data:
            return self._bytes(1)
        at = self._random.randrange(len(data))
        return data[:at] + bytes((data[at] ^ 1 << self._random.randrange(8),)) + data[at + 1 :]

    def _cut(self, data: bytes) -> bytes:
        at = self._random.randrange(len(data) + 1)
        return data[:at] if self._random.random() < 0.5 else data[at:]

    def _flip_config(self, call: Call) -> None:
        call.config = self._flipped(call.config)

    def _cut_config(self, call: Call) -> None:
        call.config = self._cut(call.config)

    def _widen_config(self, call: Call) -> None:
        config = credentials_pb2.CaptureConfig.FromString(self._victim.config)
        match self._random.randrange(4):
            case 0:
                config.types.append("anything")
            case 1:
                config.expires_at.seconds += self._random.randrange(1, 10**6)
            case 2:
                config.actor = self._random.choice(["", "somebody else"])
            case _:
                config.source = "another source"
        call.config = config.SerializeToString(deterministic=True)

    def _swap_config(self, call: Call) -> None:
        call.config = self._random.choice(self._others).config

    def _rename_key(self, call: Call) -> None:
        config = credentials_pb2.CaptureConfig.FromString(self._victim.config)
        config.key_id = self._random.choice([self._bytes(8).hex(), self._others[0].key_id])
        call.config = config.SerializeToString(deterministic=True)

    def _rename_call(self, call: Call) -> None:
        call.id = "".join(self._random.choices(_LETTERS, k=self._random.randrange(1, 65)))

    def _move_in_time(self, call: Call) -> None:
        # Mostly within the time window, so that only the signature can refuse the call.
        call.timestamp_ms += self._random.choice([1, -1, 1_000, -60_000, 200_000, 10**9])

    def _flip_body(self, call: Call) -> None:
        call.body = self._flipped(call.body)

    def _cut_body(self, call: Call) -> None:
        call.body = self._cut(call.body)

    def _add_to_body(self, call: Call) -> None:
        # A request appended to a serialised request is merged into it.
        call.body += self._random.choice([_body().SerializeToString(), self._bytes(3), b"\0"])

    def _swap_body(self, call: Call) -> None:
        call.body = _body().SerializeToString()

    def _flip_signature(self, call: Call) -> None:
        call.signature = self._flipped(call.signature)

    def _cut_signature(self, call: Call) -> None:
        call.signature = self._cut(call.signature)

    def _make_up_signature(self, call: Call) -> None:
        call.signature = self._random.choice([b"", bytes(32), self._bytes(32), call.signature + b"\0"])

    def _reuse_signature(self, call: Call) -> None:
        call.signature = self.valid().signature

    def _sign_with_another_secret(self, call: Call) -> None:
        # With that client's own configuration the call would be valid.
        other = self._random.choice([each for each in self._others if each.config != call.config])
        disguised = SignedClient(call.config, other.secret, other.key_id)
        call.CopyFrom(disguised.request(call.body))

    def _move_between_parts(self, call: Call) -> None:
        """The same signed bytes, with other boundaries between the parts."""
        text = str(call.timestamp_ms)
        call.id, call.timestamp_ms, call.body = (
            f"{call.id}.{text[:6]}",
            int(text[6:]),
            call.body,
        )


def _body() -> capture_pb2.ReportRequest:
    return rows(Sample(subject="", quantities={"units": "1"}), tenant_id="", source="")
