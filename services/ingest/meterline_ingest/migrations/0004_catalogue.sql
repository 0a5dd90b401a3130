-- What events are enriched from.
CREATE TABLE catalogue_entries (
    tenant_id  integer NOT NULL,
    namespace  text NOT NULL,
    key        text NOT NULL,
    version    bigint NOT NULL,
    attributes jsonb NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, namespace, key)
);

-- Every version that an entry ever had; NULL when it was removed. Events tell which one they were
-- enriched from.
CREATE TABLE catalogue_versions (
    tenant_id  integer NOT NULL,
    namespace  text NOT NULL,
    key        text NOT NULL,
    version    bigint NOT NULL,
    attributes jsonb,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, namespace, key, version)
);

SELECT protect_tenants('catalogue_entries');
SELECT protect_tenants('catalogue_versions');
