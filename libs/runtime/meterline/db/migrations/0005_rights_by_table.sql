-- Rights are granted table by table: the same in every schema. What nobody grants, the application role cannot do.

-- The role that the service runs as.
CREATE FUNCTION app_role() RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT 'meterline_' || current_schema()
$$;

REVOKE ALL ON FUNCTION app_role() FROM PUBLIC;

-- Makes `rights` all that the application role may do with a table, for example 'SELECT, INSERT, UPDATE (state)'.
-- An empty text takes everything. Partitions get nothing: they are reached by the name of the whole.
CREATE FUNCTION grant_rights(target regclass, rights text) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    one regclass;
BEGIN
    FOR one IN SELECT target UNION SELECT relid FROM pg_partition_tree(target) LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %I', one, app_role());
    END LOOP;
    IF rights <> '' THEN
        EXECUTE format('GRANT %s ON %s TO %I', rights, target, app_role());
    END IF;
END $$;

REVOKE ALL ON FUNCTION grant_rights(regclass, text) FROM PUBLIC;

-- Databases of earlier versions gave every right on whatever was made. Column rights go with those on their table.
DO $$
DECLARE
    kind text;
BEGIN
    FOREACH kind IN ARRAY ARRAY['TABLES', 'SEQUENCES', 'FUNCTIONS'] LOOP
        EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I REVOKE ALL ON %s FROM %I',
                       current_schema(), kind, app_role());
    END LOOP;
    -- Whoever has the right to use the schema may call the functions that PUBLIC may.
    EXECUTE format('REVOKE ALL ON FUNCTION protect_tenants(regclass), take_rights(regclass, text[]), app_role(),'
                   ' grant_rights(regclass, text), uuid_floor(timestamptz), scope_is_everybody(),'
                   ' scope_of_tenants() FROM %I', app_role());
    EXECUTE format('GRANT EXECUTE ON FUNCTION maintain_messaging(interval) TO %I', app_role());
END $$;

SELECT grant_rights('schema_migrations', '');
SELECT grant_rights('outbox', 'SELECT, INSERT, UPDATE (published_at)');
SELECT grant_rights('inbox', 'SELECT, INSERT');
SELECT grant_rights(
    'dead_letters',
    'SELECT, INSERT, UPDATE (state, attempts, error, failed_at, redriven_at, redriven_by, reason)'
);
