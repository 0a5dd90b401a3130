-- What aggregate keeps. Numbers of grains and aggregations are those of meterline.common.v1.

CREATE TABLE meters (
    meter_id         integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name             text NOT NULL UNIQUE,
    event_type       text NOT NULL,
    aggregation      smallint NOT NULL CHECK (aggregation BETWEEN 1 AND 4),
    quantity         text NOT NULL,
    unique_dimension text NOT NULL,
    group_by         text[] NOT NULL,
    filter           jsonb NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now()
);

-- Dictionary of the values that usage is kept by. Group 0, the total, has no row.
-- `dimensions` is json and not jsonb, which cannot hold every string that a value may be.
CREATE TABLE dimension_groups (
    tenant_id  integer NOT NULL,
    group_id   bigint GENERATED ALWAYS AS IDENTITY,
    digest     uuid NOT NULL,
    dimensions json NOT NULL,
    PRIMARY KEY (tenant_id, group_id),
    UNIQUE (tenant_id, digest)
);

-- Usage by minute, hour, day and month. `value` is NULL for meters that only count: event_count says it.
--
-- A partition a grain: indexes stay small, and each grain can have a retention of its own. Pages keep room
-- for new versions of their rows, since all rows of a page change together as long as their window is
-- current: so updates stay on the page and touch no index. Minutes are many and soon history, so they
-- keep less of it.
CREATE TABLE windows (
    tenant_id    integer NOT NULL,
    meter_id     integer NOT NULL,
    window_start timestamptz NOT NULL,
    group_id     bigint NOT NULL,
    event_count  bigint NOT NULL,
    revision     bigint NOT NULL,
    grain        smallint NOT NULL,
    value        numeric,
    PRIMARY KEY (tenant_id, meter_id, window_start, group_id, grain)
) PARTITION BY LIST (grain);

CREATE TABLE windows_minute PARTITION OF windows FOR VALUES IN (1) WITH (fillfactor = 70);
CREATE TABLE windows_hour PARTITION OF windows FOR VALUES IN (2) WITH (fillfactor = 50);
CREATE TABLE windows_day PARTITION OF windows FOR VALUES IN (3) WITH (fillfactor = 50);
CREATE TABLE windows_month PARTITION OF windows FOR VALUES IN (4) WITH (fillfactor = 50);

-- Which values a unique count has seen in a window: 128-bit digests.
CREATE TABLE window_members (
    tenant_id    integer NOT NULL,
    meter_id     integer NOT NULL,
    window_start timestamptz NOT NULL,
    group_id     bigint NOT NULL,
    member       uuid NOT NULL,
    grain        smallint NOT NULL,
    PRIMARY KEY (tenant_id, meter_id, window_start, group_id, member, grain)
) PARTITION BY LIST (grain);

CREATE TABLE window_members_minute PARTITION OF window_members FOR VALUES IN (1);
CREATE TABLE window_members_hour PARTITION OF window_members FOR VALUES IN (2);
CREATE TABLE window_members_day PARTITION OF window_members FOR VALUES IN (3);
CREATE TABLE window_members_month PARTITION OF window_members FOR VALUES IN (4);

-- What a batch added to an hour of a meter, or to the part of an hour that belongs to one local day.
-- `value` is the batch's own sum or maximum, NULL for counts and unique counts.
CREATE TABLE contributions (
    tenant_id    integer NOT NULL,
    meter_id     integer NOT NULL,
    window_start timestamptz NOT NULL,
    batch_id     uuid NOT NULL,
    event_count  bigint NOT NULL,
    value        numeric,
    PRIMARY KEY (tenant_id, meter_id, window_start, batch_id)
);

CREATE INDEX contributions_of_batch ON contributions (tenant_id, batch_id);

-- Events that were folded, metered or not: one side of the conservation check.
CREATE TABLE tenant_totals (
    tenant_id  integer PRIMARY KEY,
    aggregated bigint NOT NULL
) WITH (fillfactor = 50);

-- Month windows that changed since they were last published, with the trace of the last change.
CREATE TABLE changed_months (
    tenant_id    integer NOT NULL,
    meter_id     integer NOT NULL,
    window_start timestamptz NOT NULL,
    traceparent  text NOT NULL,
    PRIMARY KEY (tenant_id, meter_id, window_start)
) WITH (fillfactor = 50);
