"""The mesh with the tenants, the event type and the meters of the load."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import psycopg
from grpc import aio
from meterline_dev.mesh import Mesh, MeshOptions
from meterline_protos.aggregate.v1 import meters_pb2, meters_pb2_grpc
from meterline_protos.common.v1 import types_pb2
from meterline_protos.identity.v1 import tenants_pb2, tenants_pb2_grpc

from tests.bench import disk, guards, profiling
from tests.bench.disk import Disk
from tests.bench.guards import Guards
from tests.bench.measure import Meter
from tests.bench.options import Options
from tests.bench.orders import LoadOrder
from tests.bench.pipes import Worker
from tests.bench.usage import COUNT_METER, SUM_METER, Usage, Visible, Watch, differences
from tests.bench.workload import DIMENSION, EVENT_TYPE, QUANTITY, Tally, tenant_name

# The tenant whose events measure freshness; it has no load.
PROBE = "bench-probe"
# Several zones, since windows depend on the tenant's time zone.
ZONES = ("UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata")
_WARM_BATCH = 1_000
# The ids of all cases are later than these, like new ids in production.
_WARM_AGE_SECONDS = 600
# Windows of sparse usage take longer than capture.
_DRAIN_SECONDS = 240.0
_STORED = """SELECT tenant_id, count(*)::bigint, coalesce(sum(quantity_1), 0)::bigint
FROM ingest.events GROUP BY tenant_id"""


class Stage:
    """A running mesh, and the ledger of its accepted events. Use `on_stage`."""

    def __init__(self, mesh: Mesh, options: Options, ingest: aio.Channel, aggregate: aio.Channel) -> None:
        self.mesh = mesh
        self.meter = Meter(mesh)
        self.usage = Usage(aggregate)
        self.ingest = ingest
        self.guards = Guards(ingest)
        self.expected = Tally.empty(options.workload.tenants)
        self._aggregate = aggregate
        self._options = options
        self._numbers: dict[int, int] = {}

    async def prepare(self) -> None:
        """Creates tenants, type, limits and meters; then sends a batch for each tenant, so that no case pays
        for one-time costs: dictionaries, plans, connections, WAL segments."""
        await self._onboard()
        await self.guards.put(on=True)
        if not self._options.capture_only:
            meters = meters_pb2_grpc.MetersServiceStub(self._aggregate)
            for meter in _meters():
                await meters.CreateMeter(meters_pb2.CreateMeterRequest(meter=meter))
        await asyncio.to_thread(self.meter.warm_wal, self._options.warm_wal_mb)
        await self._warm_up()

    async def settle(self, tally: Tally, last: int) -> Visible:
        """Adds accepted events to the ledger and waits until they are visible.

        If usage differs, the ledger adopts it, so that later cases do not report the same differences.
        """
        self.expected += tally
        visible = await self._look(last)
        if visible.differences and not self._options.capture_only:
            self.expected = await self._seen()
        return visible

    async def verify(self) -> list[str]:
        """The differences at the end: raw events by tenant, and usage by tenant and region."""
        found = await asyncio.to_thread(self._stored_differences)
        if not self._options.capture_only:
            found += await differences(self.usage, self.expected, range(len(self.expected.counts)))
        return found

    def disk(self) -> Disk:
        """The sizes of the tables for all accepted events."""
        return disk.measured(self.mesh.admin_dsn(), self.expected.total)

    async def _onboard(self) -> None:
        channel = self.mesh.channel("identity")
        stub = tenants_pb2_grpc.TenantsServiceStub(channel)
        names = [tenant_name(number) for number in range(self._options.workload.tenants)]
        for at, name in enumerate([*names, PROBE, *guards.TENANTS]):
            request = tenants_pb2.OnboardTenantRequest(
                tenant_id=name,
                display_name=name,
                time_zone=ZONES[at % len(ZONES)],
                currency="USD",
                plan=guards.PLAN,
                external_customer_id=f"cus_{name}",
                external_subscription_id=f"sub_{name}",
            )
            answer = await stub.OnboardTenant(request)
            if at < len(names):
                self._numbers[answer.tenant.number] = at
        await channel.close()

    async def _warm_up(self) -> None:
        """Events with every subject and region of every tenant, at least once."""
        order = LoadOrder(
            address=self.mesh.address("ingest"),
            workload=self._options.workload,
            form="columns",
            batch=_WARM_BATCH,
            concurrency=4,
            events=2 * _WARM_BATCH * self._options.workload.tenants,
            seconds=60.0,
            seed=0,
            age_seconds=_WARM_AGE_SECONDS,
            token=self.mesh.token(),
        )
        async with Worker("tests.bench.load", order.as_dict()) as worker:
            answer = await worker.run()
        visible = await self.settle(Tally.parse(answer["tally"]), answer["last_tenant"])
        if visible.differences:
            raise RuntimeError("the first batches are not exact: " + "; ".join(visible.differences[:3]))

    async def _look(self, last: int) -> Visible:
        if self._options.capture_only:
            return Visible(0.0, await asyncio.to_thread(self._stored_differences))
        return await Watch(self.usage, self.expected).wait(last, _DRAIN_SECONDS)

    async def _seen(self) -> Tally:
        tally = Tally.empty(len(self.expected.counts))
        for tenant in range(len(tally.counts)):
            for region, (count, summed) in (await self.usage.regions(tenant_name(tenant))).items():
                at = int(region.rpartition("-")[2])
                tally.counts[tenant, at], tally.units[tenant, at] = count, summed
        return tally

    def _stored_differences(self) -> list[str]:
        with psycopg.connect(self.mesh.admin_dsn(), autocommit=True) as connection:
            rows = connection.execute(_STORED).fetchall()
        stored = {self._numbers[row[0]]: (row[1], row[2]) for row in rows if row[0] in self._numbers}
        return [
            f"{tenant_name(tenant)}: (events, units) stored {stored.get(tenant)}, accepted {wanted}"
            for tenant in range(len(self.expected.counts))
            if stored.get(tenant, (0, 0)) != (wanted := self.expected.of_tenant(tenant))
        ]


def _meters() -> list[meters_pb2.Meter]:
    count, total = types_pb2.AGGREGATION_COUNT, types_pb2.AGGREGATION_SUM
    return [
        meters_pb2.Meter(
            name=name, event_type=EVENT_TYPE, aggregation=kind, quantity=of, group_by=[DIMENSION]
        )
        for name, kind, of in ((COUNT_METER, count, ""), (SUM_METER, total, QUANTITY))
    ]


_UNASKED: Final = {"identity": {"METERLINE_PUBLISHER_ADDRESS": ""}}


@asynccontextmanager
async def on_stage(options: Options, directory: Path, environment: Mapping[str, str]) -> AsyncIterator[Stage]:
    """Runs a prepared mesh in `directory`; `environment` is for all services."""
    mesh_options = MeshOptions(
        services=options.services,
        # The plan is only a name for limits here, without prices that identity could check.
        environment={name: {**environment, **_UNASKED.get(name, {})} for name in options.services},
        programs=profiling.programs(options.profile, directory),
        postgres_settings=options.postgres,
    )
    async with Mesh(directory / "mesh", mesh_options) as mesh:
        channels = [mesh.channel(name) for name in ("ingest", "aggregate")]
        try:
            stage = Stage(mesh, options, *channels)
            await stage.prepare()
            yield stage
        finally:
            for channel in channels:
                await channel.close()
