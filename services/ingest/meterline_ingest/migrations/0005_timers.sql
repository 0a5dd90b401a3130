-- Durations that are being measured. Rows change with every heartbeat, so pages keep room for that.
CREATE TABLE timers (
    tenant_id         integer NOT NULL,
    timer_id          text NOT NULL,
    -- What the event will say: source, subject, dimensions, quantities, properties.
    event_type        text NOT NULL,
    subject           text NOT NULL,
    content           jsonb NOT NULL,
    -- Whether the caller gave the start's time, to know the same request again.
    started_by_caller boolean NOT NULL,
    started_at        timestamptz NOT NULL,
    last_heartbeat_at timestamptz NOT NULL,
    stopped_at        timestamptz,
    state             smallint NOT NULL,
    flags             text[] NOT NULL DEFAULT '{}',
    event_id          uuid,
    problem           text NOT NULL DEFAULT '',
    attempts          integer NOT NULL DEFAULT 0,
    -- When it is to be looked at next; NULL once nothing is left to do.
    due_at            timestamptz,
    PRIMARY KEY (tenant_id, timer_id)
) WITH (fillfactor = 70);

CREATE INDEX timers_due ON timers (due_at) WHERE due_at IS NOT NULL;

SELECT protect_tenants('timers');
