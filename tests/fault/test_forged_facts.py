"""Fault: an attacker with the login of one service publishes facts of another service."""

from __future__ import annotations

from datetime import UTC, datetime

import nats.errors
import psycopg
import pytest
from meterline.bus import permissions
from meterline.bus.connection import Bus
from meterline.bus.permissions import Permissions
from meterline.bus.subjects import EVENTS_ACCEPTED
from meterline_dev.mesh import Mesh

from tests.fault.conftest import Lengths, MakeMesh
from tests.fault.load import TENANTS, Expected, Reporter, is_exact
from tests.support.aggregate import Event, Feed
from tests.support.aggregate import accepted as fact_of

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600), pytest.mark.req("T4.1", "X7")]

FORGERS = [service for service in permissions.services() if service != EVENTS_ACCEPTED.publisher]


def number_of(mesh: Mesh, slug: str) -> int:
    with psycopg.connect(mesh.admin_dsn()) as connection:
        query = "SELECT tenant_id FROM identity.tenant_accounts WHERE slug = %s"
        row = connection.execute(query, (slug,)).fetchone()
    assert row is not None
    return int(row[0])


async def forge(mesh: Mesh, forger: str) -> bool:
    """Publishes three unreported events with the login of a service; returns whether they were stored."""
    tenant, now = number_of(mesh, TENANTS[0]), datetime.now(UTC)
    event = Event(tenant, now, type="api.request", quantities={"units": "7"})
    bus = Bus(mesh.nats_url(forger), name=forger)
    await bus.start()
    try:
        await Feed(bus).publish(fact_of([event] * 3, scale=0))
    except nats.errors.TimeoutError:
        return False
    finally:
        await bus.stop()
    return True


async def forge_under_load(mesh: Mesh, expected: Expected, events: int) -> tuple[set[bool], bool]:
    """Whether forged events were stored, and whether exactly the reported events count."""
    await Reporter(mesh, expected).run(events // 2)
    stored = {await forge(mesh, forger) for forger in FORGERS}
    await Reporter(mesh, expected, seed=8).run(events // 2)
    return stored, await is_exact(mesh, expected)


async def test_forged_event_never_counts(start_mesh: MakeMesh, lengths: Lengths) -> None:
    expected = Expected()
    async with start_mesh() as mesh:
        assert await forge_under_load(mesh, expected, lengths.events) == ({False}, True)


@pytest.mark.planted
async def test_logins_with_unrestricted_publishing_are_caught(
    start_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = Permissions((">",), (">",))
    monkeypatch.setattr(permissions, "permissions_of", lambda service, facts: everything)
    expected = Expected()
    async with start_mesh() as mesh:
        assert await forge_under_load(mesh, expected, 200) == ({True}, False)
