-- How much tenants may report: the limits of a plan, and those that single tenants have in place of it.
-- No rate (0): any number. A bucket holds `burst` events at most and is filled by `events_per_second`.
CREATE TABLE plan_limits (
    plan              text PRIMARY KEY,
    events_per_second bigint NOT NULL CHECK (events_per_second >= 0),
    burst             bigint NOT NULL CHECK (burst >= 0),
    weight            integer NOT NULL CHECK (weight > 0),
    changed_by        text NOT NULL,
    changed_at        timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE tenant_limits (
    tenant_id         integer PRIMARY KEY,
    events_per_second bigint NOT NULL CHECK (events_per_second >= 0),
    burst             bigint NOT NULL CHECK (burst >= 0),
    weight            integer NOT NULL CHECK (weight > 0),
    changed_by        text NOT NULL,
    changed_at        timestamptz NOT NULL DEFAULT now()
);
SELECT protect_tenants('tenant_limits');

-- Who changed what, and when. Changes are made one after another, so that the greatest number that is
-- visible tells whether anything changed.
CREATE TABLE limit_changes (
    change            bigint GENERATED ALWAYS AS IDENTITY,
    -- 0: a plan's.
    tenant_id         integer NOT NULL,
    plan              text NOT NULL,
    -- No values: they were taken away.
    events_per_second bigint,
    burst             bigint,
    weight            integer,
    changed_by        text NOT NULL,
    changed_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (change, tenant_id)
);
SELECT protect_tenants('limit_changes');

-- What is left of a tenant's burst, in millionths of an event: a rate times microseconds, exactly. Less than
-- nothing is a debt. A new bucket is full: it has been filling since 1970.
--
-- Unlogged: a lease then waits for no disk, and after a crash of the server the buckets are full once more.
-- Rows change ten times a second, hence the room in their pages.
CREATE UNLOGGED TABLE rate_buckets (
    tenant_id integer PRIMARY KEY,
    level     bigint NOT NULL DEFAULT 0,
    filled_at timestamptz NOT NULL DEFAULT 'epoch'
) WITH (fillfactor = 20);
SELECT protect_tenants('rate_buckets');
