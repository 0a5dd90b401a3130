"""Binary COPY rows that are built from arrays are stored with the same values."""

from __future__ import annotations

import uuid

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meterline import migrate
from meterline.clock import to_datetime
from meterline_ingest.capture.rules.quantities import Slot
from meterline_ingest.capture.store.copy_format import event_rows
from meterline_ingest.capture.store.events import queries
from meterline_ingest.event.columns import UUID_DTYPE
from psycopg import sql

from tests.support.databases import Databases

int8 = st.integers(-(2**63), 2**63 - 1)
int4 = st.integers(-(2**31), 2**31 - 1)
row = st.tuples(
    st.uuids(), int8, int8, st.integers(0, 4 * 10**15), st.tuples(*[st.none() | int8] * 4), int4, int4
)


@pytest.fixture(scope="module")
def connection(databases: Databases) -> psycopg.Connection[tuple[object, ...]]:
    database = databases.create([("ingest", migrate.packages("ingest"))])
    # A table with the same columns that accepts ids of any month.
    opened = psycopg.connect(database.admin_dsn)
    opened.execute("CREATE TEMPORARY TABLE bare (LIKE ingest.events)")
    opened.commit()
    return opened


@given(st.lists(row, min_size=1, max_size=20, unique_by=lambda each: (each[0], each[5])))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.req("T2.1")
def test_copied_rows_equal_the_given_values(
    connection: psycopg.Connection[tuple[object, ...]],
    rows: list[tuple[uuid.UUID, int, int, int, tuple[int | None, ...], int, int]],
) -> None:
    slots: list[Slot | None] = []
    for at in range(4):
        values = [each[4][at] for each in rows]
        present = np.array([value is not None for value in values])
        slots.append(
            None
            if not present.any()
            else Slot(np.array([value or 0 for value in values]), None if present.all() else present)
        )
    buffer = event_rows(
        np.frombuffer(b"".join(each[0].bytes for each in rows), UUID_DTYPE),
        np.array([each[1] for each in rows]),
        np.array([each[2] for each in rows]),
        np.array([each[3] for each in rows]),
        slots,
        np.array([each[5] for each in rows]),
        np.array([each[6] for each in rows]),
    )
    with connection.cursor() as cursor:
        statement = sql.SQL(queries.copy_events).format(partition=sql.Identifier("bare"))
        with cursor.copy(statement) as copy:
            copy.write(buffer)
        cursor.execute(
            "SELECT event_id, batch_number, subject_id, occurred_at, quantity_1, quantity_2, quantity_3,"
            " quantity_4, tenant_id, series_id FROM bare"
        )
        found = sorted(cursor.fetchall(), key=str)
    connection.rollback()
    expected = [(r[0], r[1], r[2], to_datetime(r[3]), *r[4], r[5], r[6]) for r in rows]
    assert found == sorted(expected, key=str)
