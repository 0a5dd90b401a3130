-- Types that tenants added for themselves, beside the operator's in `event_types`.
CREATE TABLE tenant_event_types (
    tenant_id  integer NOT NULL,
    name       text NOT NULL,
    definition jsonb NOT NULL,
    version    integer NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, name)
);

-- Every version that a type ever had, by whom. Changes are made one after another, so that the greatest
-- number that is visible tells whether anything changed.
CREATE TABLE event_type_versions (
    -- 0: the operator's.
    tenant_id  integer NOT NULL,
    name       text NOT NULL,
    version    integer NOT NULL,
    change     bigint GENERATED ALWAYS AS IDENTITY,
    definition jsonb NOT NULL,
    changed_by text NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, name, version)
);
CREATE UNIQUE INDEX event_type_versions_change ON event_type_versions (change, tenant_id);

INSERT INTO event_type_versions (tenant_id, name, version, definition, changed_by, changed_at)
SELECT 0, name, version, definition, '', changed_at FROM event_types;
