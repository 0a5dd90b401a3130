"""Fault 10: one tenant requests another tenant's data from every RPC of every service."""

from __future__ import annotations

import sys
from typing import Final

import psycopg
import pytest
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from meterline_dev.mesh import Mesh

from tests.fault.conftest import SHARED, Lengths, MakeMesh
from tests.fault.foreign_requests import OPERATORS, Belongings, Filler, Rpc, all_rpcs, answers, texts_of
from tests.fault.load import prepare, wait_until_settled
from tests.fault.tenant_objects import bill, fill, publish
from tests.support.polling import eventually

pytestmark = [pytest.mark.fault, pytest.mark.timeout(600)]

VICTIM: Final = "victim"
OTHER: Final = "other"
# RPCs that answer with counts, with bytes, or with parts of their request.
NUMBERS: Final = {
    "aggregate.v1.UsageService/PreviewChanges",
    "identity.v1.CredentialsService/GetSigningKeys",
    "aggregate.v1.ReconciliationService/Compare",
    "ingest.v1.EventsService/GetTotals",
    "ingest.v1.LimitsService/GetTenantLimits",
}
# Tables and columns that change without requests: records of a service's own work.
RESTLESS: Final = {"tenants"}
RESTLESS_COLUMNS: Final = {"data_keys": ["sealed"]}


def readers() -> list[Rpc]:
    """RPCs that only read, by their names."""
    words = ("Get", "List", "Query", "Find", "Export", "Explain", "Preview", "Compare")
    return [rpc for rpc in all_rpcs() if rpc.method.name.startswith(words) and rpc.names_a_tenant]


async def ask_for_own(mesh: Mesh, tenant: str, known: Belongings) -> set[str]:
    """Adds the texts of a tenant's own answers to `known`; returns the RPCs with such answers."""
    answering = set()
    rpcs = [rpc for rpc in readers() if rpc.service in mesh.options.services]
    for seed in range(3):
        filler = Filler(tenant, known.names(), seed)
        async for rpc, request, answer in answers(mesh, rpcs, filler, 8):
            said = {text for _, text in texts_of(request)}
            for name, text in texts_of(parsed(rpc, answer)):
                if text not in said:
                    answering.add(rpc.name)
                    known.add(name, text)
    return answering


def parsed(rpc: Rpc, answer: bytes) -> Message:
    """The parsed answer, empty for an error. Messages of a stream are merged."""
    message = GetMessageClass(rpc.method.output_type)()
    try:
        message.ParseFromString(answer)
    except DecodeError:
        return GetMessageClass(rpc.method.output_type)()
    return message


def state_of(mesh: Mesh, tenant: str) -> dict[str, list[str]]:
    """Every row of the tenant in every table of every service."""
    found: dict[str, list[str]] = {}
    with psycopg.connect(mesh.admin_dsn()) as admin:
        row = admin.execute("SELECT tenant_id FROM ingest.tenants WHERE slug = %s", (tenant,)).fetchone()
        assert row is not None
        tables = admin.execute(
            "SELECT c.oid::regclass::text, c.relname FROM pg_class c"
            " JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'"
            " WHERE a.atttypid = 'int4'::regtype AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
            " ORDER BY 1"
        ).fetchall()
        for table, name in tables:
            if name not in RESTLESS:
                query = (
                    f"SELECT (to_jsonb(t) - %s::text[])::text FROM {table} t WHERE tenant_id = %s ORDER BY 1"
                )
                parameters = RESTLESS_COLUMNS.get(name, []), *row
                found[table] = [each for (each,) in admin.execute(query, parameters).fetchall()]
    return found


async def settled_state(mesh: Mesh, tenant: str) -> dict[str, list[str]]:
    """The state, once two consecutive reads agree."""
    last: list[dict[str, list[str]]] = [{}]

    def same() -> bool:
        before, now = last[-1], state_of(mesh, tenant)
        last.append(now)
        return bool(now) and before == now

    await wait_until_settled(mesh)
    await eventually(same, seconds=60)
    return last[-1]


async def leaked_to_another_tenant(mesh: Mesh, rounds: int) -> tuple[dict[str, set[str]], set[str], set[str]]:
    """Leaked texts by RPC, the RPCs that answer the victim itself, and tables with changed rows of it."""
    await prepare(mesh, (OTHER, VICTIM))
    mine, theirs = await fill(mesh, OTHER), await fill(mesh, VICTIM)
    if "publisher" in mesh.options.services:
        await wait_until_settled(mesh)
        await bill(mesh, OTHER)
        await bill(mesh, VICTIM)
        await publish(mesh, OTHER)
        await publish(mesh, VICTIM)
    await ask_for_own(mesh, OTHER, mine)
    answering = await ask_for_own(mesh, VICTIM, theirs)
    secrets = {text: text.encode() for text in theirs.secrets() - mine.secrets()}
    assert len(secrets) > 10
    before = await settled_state(mesh, VICTIM)
    leaked: dict[str, set[str]] = {}
    rpcs = [rpc for rpc in all_rpcs() if rpc.names_a_tenant and rpc.service in mesh.options.services]
    async for rpc, _, answer in answers(mesh, rpcs, Filler(OTHER, theirs.names(), 10), rounds):
        if found := {text for text, raw in secrets.items() if raw in answer}:
            leaked.setdefault(rpc.name, set()).update(found)
    after = await settled_state(mesh, VICTIM)
    return leaked, answering, {table for table in before | after if before.get(table) != after.get(table)}


@pytest.mark.req("T4.1")
def test_every_rpc_names_its_tenant_or_states_why_not() -> None:
    unnamed = {rpc.name for rpc in all_rpcs() if not rpc.names_a_tenant}
    assert unnamed == set(OPERATORS)


@pytest.mark.req("T4.1", "X7")
@SHARED
async def test_no_rpc_leaks_or_changes_another_tenants_data(shared_mesh: Mesh, lengths: Lengths) -> None:
    leaked, answering, changed = await leaked_to_another_tenant(shared_mesh, 8 * lengths.rounds)
    assert leaked == {}
    assert changed == set()
    # Most reading RPCs must have answered the victim, or the test would prove nothing.
    assert {rpc.name for rpc in readers()} - answering <= NUMBERS


@pytest.mark.planted
@pytest.mark.req("X7")
async def test_lookup_without_the_tenant_is_caught(start_mesh: MakeMesh, lengths: Lengths) -> None:
    programs = {"ingest": [sys.executable, "-m", "tests.fault.planted.tenant_blind"]}
    async with start_mesh(services=("identity", "ingest", "aggregate"), programs=programs) as mesh:
        leaked, _, _ = await leaked_to_another_tenant(mesh, 8 * lengths.rounds)
    assert "ingest.v1.EventsService/GetEvent" in leaked
