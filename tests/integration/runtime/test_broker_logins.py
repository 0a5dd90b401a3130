"""Each service has its own login at the broker, which refuses it everything that it does not own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nats
import nats.errors
import pytest
from meterline.bus import permissions
from meterline.bus.connection import Bus
from meterline.bus.safety import BrokerRefusedError, UnsafeBrokerError, require_logins
from meterline.bus.subjects import EVENTS_ACCEPTED, FACTS, INVOICES_CHANGED, USAGE_WINDOW, events_accepted
from meterline.consuming.delivery import to_delivery
from meterline_dev.servers import NatsServer
from meterline_dev.servers.nats import binary
from meterline_dev.testing import scratch_directory
from nats.js.api import RePublish, StreamSource, SubjectTransform
from prometheus_client import REGISTRY

from tests.support.logins import (
    Attempts,
    all_attempts,
    authorization_of_tests,
    broker_with_logins,
    consumer_attempts,
    logged_in,
    refused,
    sample,
    url_of,
)
from tests.support.polling import eventually

pytestmark = pytest.mark.req("K2", "T4.1")

SERVICES = permissions.services()


@pytest.fixture(scope="module")
def shared_guarded() -> Iterator[NatsServer]:
    with broker_with_logins() as server:
        yield server


@pytest.fixture
def guarded() -> Iterator[NatsServer]:
    """A broker with separate logins for this test."""
    with broker_with_logins() as server:
        yield server


def owned_by(service: str) -> Attempts:
    """The permitted actions of a service, derived from the facts without `permissions_of`."""
    publish: set[str] = set()
    for fact in FACTS:
        if service == fact.publisher or service in fact.consumers:
            publish |= {f"$JS.API.STREAM.{verb}.{fact.stream}" for verb in ("INFO", "CREATE")}
        if service == fact.publisher:
            publish.add(sample(fact))
        if service in fact.consumers:
            own = consumer_attempts(fact, service)
            publish |= {own["durable"], own["next"], own["ack"]}
    return Attempts(frozenset(publish), frozenset({f"_INBOX.{service}.answer", f"_INBOX.{service}.>"}))


@pytest.mark.parametrize("service", SERVICES)
async def test_broker_refuses_a_service_what_it_does_not_own(
    shared_guarded: NatsServer, service: str
) -> None:
    everything = all_attempts()
    assert await refused(shared_guarded, service, everything) == everything - owned_by(service)


@pytest.mark.parametrize("planted", ["publish", "subscribe"])
async def test_permissions_for_everything_are_detected(planted: str) -> None:
    users = authorization_of_tests()
    for user in users["users"][1:]:
        user["permissions"][planted] = {"allow": [">"]}
    everything = all_attempts()
    with broker_with_logins(users) as open_to_all:
        for service in SERVICES:
            assert await refused(open_to_all, service, everything) != everything - owned_by(service)


@pytest.mark.parametrize("login", ["", "ingest:wrong@", "stranger:secret@"])
async def test_unknown_login_cannot_connect(shared_guarded: NatsServer, login: str) -> None:
    url = f"nats://{login}127.0.0.1:{shared_guarded.port}"
    with pytest.raises(nats.errors.Error, match="Authorization Violation"):
        await nats.connect(url, allow_reconnect=False)


@pytest.mark.parametrize("login", ["", "ingest:wrong@"])
async def test_refused_login_fails_the_start_with_reason(shared_guarded: NatsServer, login: str) -> None:
    bus = Bus(f"nats://{login}127.0.0.1:{shared_guarded.port}", name="ingest")
    async with asyncio.timeout(30):
        with pytest.raises(BrokerRefusedError, match="refuses the login of user") as failed:
            await bus.start()
    assert "wrong" not in str(failed.value)
    assert not bus.connected


async def test_refused_permission_fails_the_start_with_reason(shared_guarded: NatsServer) -> None:
    bus = Bus(url_of(shared_guarded, "identity"), name="publisher")
    with pytest.raises(BrokerRefusedError, match=r"user 'identity': .*permissions violation"):
        await bus.start()
    await bus.stop()


@pytest.mark.parametrize("service", SERVICES)
async def test_service_creates_its_streams_and_publishes_its_facts(
    shared_guarded: NatsServer, service: str
) -> None:
    bus = Bus(url_of(shared_guarded, service), name=service)
    await bus.start()
    for fact in FACTS:
        if fact.publisher == service:
            assert (await bus.jetstream().publish(sample(fact), b"x")).stream == fact.stream
    await bus.stop()


async def test_service_cannot_create_streams_of_others(guarded: NatsServer) -> None:
    bus = Bus(url_of(guarded, "identity"), name="identity")
    await bus.start()
    await bus.stop()
    async with logged_in(guarded, "operator") as (client, _):
        assert [info.config.name for info in await client.jsm().streams_info()] == ["TENANTS"]


# --- a login that is revoked while it is in use


def set_password(broker: NatsServer, user: str, password: str) -> None:
    """Changes a password in the configuration of a running broker, and reloads it."""
    config = json.loads(broker.config_file.read_text())
    for each in config["authorization"]["users"]:
        if each["user"] == user:
            each["password"] = password
    broker.config_file.write_text(json.dumps(config))
    os.kill(broker.pid, signal.SIGHUP)


def refusals(kind: str) -> float:
    return REGISTRY.get_sample_value("meterline_broker_refusals_total", {"kind": kind}) or 0.0


async def test_revoked_login_is_reported_until_restored(guarded: NatsServer) -> None:
    bus = Bus(url_of(guarded, "identity"), name="identity")
    await bus.start()
    password = url_of(guarded, "identity").split(":")[2].split("@")[0]
    before = refusals("login")
    set_password(guarded, "identity", "another")
    # Counted once when it is revoked, and again at the reconnect.
    await eventually(lambda: refusals("login"), seconds=30, until=lambda count: count >= before + 2)
    assert not bus.connected
    set_password(guarded, "identity", password)
    await eventually(lambda: bus.connected, seconds=30)
    await bus.jetstream().publish("tenants.changed", b"x")
    await bus.stop()


async def test_bus_with_revoked_login_can_be_stopped(guarded: NatsServer) -> None:
    bus = Bus(url_of(guarded, "identity"), name="identity")
    await bus.start()
    set_password(guarded, "identity", "another")
    await eventually(lambda: not bus.connected, seconds=30)
    async with asyncio.timeout(30):
        await bus.stop()


# --- messages that the broker itself copies without a permission check


@pytest.mark.parametrize(
    "trick",
    [
        {"republish": RePublish(src=USAGE_WINDOW.subject, dest=events_accepted())},
        {"sources": [StreamSource(name=INVOICES_CHANGED.stream)]},
        {"subject_transform": SubjectTransform(src=USAGE_WINDOW.subject, dest="usage.other")},
        {"subjects": [USAGE_WINDOW.subject, "other"]},
        {"subjects": [], "mirror": StreamSource(name=INVOICES_CHANGED.stream)},
    ],
    ids=lambda trick: sorted(trick)[0],
)
async def test_stream_that_copies_or_republishes_messages_is_refused(
    guarded: NatsServer, trick: dict[str, object]
) -> None:
    async with logged_in(guarded, "operator") as (client, _):
        jetstream = client.jetstream()
        await jetstream.add_stream(name=INVOICES_CHANGED.stream, subjects=[INVOICES_CHANGED.subject])
        config = {"name": USAGE_WINDOW.stream, "subjects": [USAGE_WINDOW.subject]} | trick
        await jetstream.add_stream(None, **config)
    bus = Bus(url_of(guarded, "publisher"), name="publisher")
    with pytest.raises(UnsafeBrokerError, match=f"stream {USAGE_WINDOW.stream} must have"):
        await bus.start()
    await bus.stop()


async def test_message_republished_by_the_broker_is_refused(guarded: NatsServer) -> None:
    """A stream configured to republish its messages bypasses the permission to publish."""
    async with logged_in(guarded, "ingest") as (client, _):
        await client.jetstream().add_stream(name=EVENTS_ACCEPTED.stream, subjects=[EVENTS_ACCEPTED.subject])
    async with logged_in(guarded, "publisher") as (client, errors):
        jetstream = client.jetstream()
        await jetstream.add_stream(
            name=INVOICES_CHANGED.stream,
            subjects=[INVOICES_CHANGED.subject],
            republish=RePublish(src=INVOICES_CHANGED.subject, dest=events_accepted()),
        )
        headers = {"Nats-Msg-Id": "01a227be-07d9-7512-8617-4d20efb1dd0b"}
        await jetstream.publish(INVOICES_CHANGED.subject, b"forged", headers=headers)
        assert errors == []
    async with logged_in(guarded, "operator") as (client, _):
        subscription = await client.jetstream().pull_subscribe(EVENTS_ACCEPTED.subject, durable="test")
        (message,) = await subscription.fetch(1, timeout=10)
    assert (message.data, (message.headers or {})["Nats-Msg-Id"]) == (b"forged", headers["Nats-Msg-Id"])
    assert to_delivery(message) is None


# --- a broker without logins


async def test_broker_without_logins_is_refused(nats_server: NatsServer) -> None:
    nats_server.start()
    with pytest.raises(UnsafeBrokerError, match="METERLINE_ALLOW_OPEN_BROKER"):
        await require_logins(nats_server.url)


async def test_broker_that_also_accepts_anonymous_users_is_refused() -> None:
    settings = {"no_auth_user": "ingest", "authorization": authorization_of_tests()}
    with (
        scratch_directory() as place,
        NatsServer(place / "nats", settings=settings) as server,
        pytest.raises(UnsafeBrokerError, match="without a login"),
    ):
        await require_logins(url_of(server, "identity"))


async def test_broker_with_logins_is_accepted(shared_guarded: NatsServer) -> None:
    await require_logins(url_of(shared_guarded, "ingest"))
    with pytest.raises(OSError, match=r"refused|Connect"):
        await require_logins("nats://ingest:x@127.0.0.1:1")


def test_printed_configuration_is_valid_for_a_broker(tmp_path: Path) -> None:
    path = tmp_path / "nats.conf"
    path.write_text(permissions.configuration())
    command = [str(binary()), "-t", "-c", str(path)]
    passwords = {permissions.password_variable(service): f"secret{service}" for service in SERVICES}
    assert subprocess.run(command, env=passwords, capture_output=True, check=False).returncode == 0
    del passwords["METERLINE_NATS_PASSWORD_INGEST"]
    unset = subprocess.run(command, env=passwords, capture_output=True, text=True, check=False)
    assert unset.returncode != 0
    assert "METERLINE_NATS_PASSWORD_INGEST" in unset.stdout + unset.stderr
