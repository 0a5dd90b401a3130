-- Row-level security: the same in every schema. `meterline.db.scope` sets what these functions read.
--
-- Policies call them in a sub-select, so that they are evaluated once a statement and not once a row.

-- Whether the transaction is one of all tenants' own.
CREATE FUNCTION scope_is_everybody() RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT coalesce(current_setting('meterline.tenant_ids', true), '') = '*'
$$;

-- The tenants that the transaction was begun for. A setting that has ended is an empty text, hence NULLIF.
CREATE FUNCTION scope_of_tenants() RETURNS integer[]
LANGUAGE sql STABLE AS $$
    SELECT string_to_array(NULLIF(NULLIF(current_setting('meterline.tenant_ids', true), ''), '*'), ',')::integer[]
$$;

-- Puts a table with a column tenant_id behind the scope, for its owner too.
CREATE FUNCTION protect_tenants(protected regclass) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', protected);
    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', protected);
    EXECUTE format(
        'CREATE POLICY tenant_scope ON %s USING ('
        ' (SELECT scope_is_everybody()) OR tenant_id = ANY ((SELECT scope_of_tenants())::integer[])'
        ')', protected);
END $$;

REVOKE ALL ON FUNCTION protect_tenants(regclass) FROM PUBLIC;

-- Takes rights on a table from everybody but its owner, for example those that default privileges gave.
CREATE FUNCTION take_rights(target regclass, VARIADIC rights text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    grantee oid;
BEGIN
    FOR grantee IN
        SELECT DISTINCT acl.grantee FROM pg_class c, aclexplode(c.relacl) acl
        WHERE c.oid = target AND acl.grantee <> c.relowner AND acl.grantee <> 0
    LOOP
        EXECUTE format('REVOKE %s ON %s FROM %s', array_to_string(rights, ', '), target, grantee::regrole);
    END LOOP;
END $$;

REVOKE ALL ON FUNCTION take_rights(regclass, text[]) FROM PUBLIC;
