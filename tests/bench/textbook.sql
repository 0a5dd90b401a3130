DROP SCHEMA IF EXISTS textbook CASCADE;
CREATE SCHEMA textbook;
CREATE TABLE textbook.events (
    tenant_id   text NOT NULL,
    event_id    uuid NOT NULL,
    event_type  text NOT NULL,
    subject     text NOT NULL,
    occurred_at timestamptz NOT NULL,
    units       bigint NOT NULL,
    dimensions  jsonb NOT NULL,
    PRIMARY KEY (tenant_id, event_id)
);
CREATE TABLE textbook.outbox (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    payload jsonb NOT NULL
);
CREATE TABLE textbook.inbox (id bigint PRIMARY KEY);
CREATE TABLE textbook.totals (
    tenant_id text NOT NULL,
    region    text NOT NULL,
    hour      timestamptz NOT NULL,
    events    bigint NOT NULL,
    units     bigint NOT NULL,
    PRIMARY KEY (tenant_id, region, hour)
);
