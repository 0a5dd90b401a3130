-- The tenants themselves. Everybody else keeps a replica, fed by `tenants.changed`.
CREATE TABLE tenant_accounts (
    tenant_id                integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slug                     text NOT NULL UNIQUE CHECK (slug ~ '^[a-z0-9-]{1,63}$'),
    display_name             text NOT NULL,
    time_zone                text NOT NULL,
    currency                 text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    plan                     text NOT NULL,
    external_customer_id     text NOT NULL CHECK (external_customer_id <> ''),
    external_subscription_id text NOT NULL CHECK (external_subscription_id <> ''),
    close_lead_seconds       integer NOT NULL CHECK (close_lead_seconds BETWEEN 0 AND 259200),
    active                   boolean NOT NULL DEFAULT true,
    version                  bigint NOT NULL DEFAULT 1 CHECK (version > 0),
    -- What the onboarding request said, to tell its repetition from another request of the same name.
    onboarding               jsonb NOT NULL,
    created_at               timestamptz NOT NULL,
    updated_at               timestamptz NOT NULL
);
