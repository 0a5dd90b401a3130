-- What corrections need: events that were counted may be taken away.

-- Months of maxima and unique counts that events were taken away from, until they are found anew. While a
-- month is here it is not published. A claim is a lease: `rebuild_id` is whose it is.
CREATE TABLE pending_rebuilds (
    tenant_id       integer NOT NULL,
    meter_id        integer NOT NULL,
    window_start    timestamptz NOT NULL,
    requested_at    timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    attempts        integer NOT NULL DEFAULT 0,
    rebuild_id      uuid,
    PRIMARY KEY (tenant_id, meter_id, window_start)
);
SELECT protect_tenants('pending_rebuilds');

-- Contributions to maxima and unique counts that took events away: the key is theirs. The batches are read
-- first when a month is found anew, so that what they took can be left out of all others.
CREATE TABLE retractions (
    tenant_id    integer NOT NULL,
    meter_id     integer NOT NULL,
    window_start timestamptz NOT NULL,
    batch_id     uuid NOT NULL,
    PRIMARY KEY (tenant_id, meter_id, window_start, batch_id)
);
SELECT protect_tenants('retractions');

-- A month that is being found anew, beside the one that is read. Unlogged: when it is lost, so are the
-- batches that it was made of, and it is begun again.
CREATE UNLOGGED TABLE rebuilt_batches (
    tenant_id  integer NOT NULL,
    rebuild_id uuid NOT NULL,
    batch_id   uuid NOT NULL,
    staged     boolean NOT NULL DEFAULT false,
    PRIMARY KEY (tenant_id, rebuild_id, batch_id)
);
SELECT protect_tenants('rebuilt_batches');

CREATE UNLOGGED TABLE rebuilt_windows (
    tenant_id    integer NOT NULL,
    rebuild_id   uuid NOT NULL,
    grain        smallint NOT NULL,
    window_start timestamptz NOT NULL,
    group_id     bigint NOT NULL,
    event_count  bigint NOT NULL,
    value        numeric,
    PRIMARY KEY (tenant_id, rebuild_id, grain, window_start, group_id)
);
SELECT protect_tenants('rebuilt_windows');

CREATE UNLOGGED TABLE rebuilt_members (
    tenant_id    integer NOT NULL,
    rebuild_id   uuid NOT NULL,
    grain        smallint NOT NULL,
    window_start timestamptz NOT NULL,
    group_id     bigint NOT NULL,
    member       uuid NOT NULL,
    PRIMARY KEY (tenant_id, rebuild_id, grain, window_start, group_id, member)
);
SELECT protect_tenants('rebuilt_members');
