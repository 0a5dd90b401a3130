-- Who changed what, and why. Written in the transaction of the change, and never changed itself.
CREATE TABLE audit_log (
    -- 0: what concerns all tenants.
    tenant_id integer NOT NULL,
    -- UUIDv7, so that entries are kept in the order of their making.
    audit_id  uuid NOT NULL,
    at        timestamptz NOT NULL DEFAULT now(),
    principal text NOT NULL,
    action    text NOT NULL,
    subject   text NOT NULL,
    reason    text NOT NULL,
    details   jsonb NOT NULL,
    PRIMARY KEY (tenant_id, audit_id)
);
SELECT protect_tenants('audit_log');
-- The application may add to it, and read it.
REVOKE UPDATE, DELETE ON audit_log FROM meterline_ingest;
