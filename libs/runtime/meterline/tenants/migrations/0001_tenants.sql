-- Replica of identity's tenants, guarded by version: in every schema but identity's.
CREATE TABLE tenants (
    tenant_id                integer PRIMARY KEY,
    slug                     text NOT NULL UNIQUE,
    version                  bigint NOT NULL,
    time_zone                text NOT NULL,
    currency                 text NOT NULL,
    plan                     text NOT NULL,
    external_customer_id     text NOT NULL,
    external_subscription_id text NOT NULL,
    active                   boolean NOT NULL,
    close_lead               interval NOT NULL,
    changed_at               timestamptz NOT NULL
);
