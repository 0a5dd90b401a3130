-- Groups are bounded, see docs/adr/0019-groups-are-bounded-and-meters-refer-to-what-exists.md.

-- Whether a row is the rest of its tenant's groups by these dimensions. A real value may read like the rest's, so only
-- this tells which is which.
ALTER TABLE dimension_groups ADD COLUMN rest boolean NOT NULL DEFAULT false;

-- One row for each tenant and set of dimensions that usage is grouped by. `names` are the dimensions, sorted, with
-- commas between. `held` counts the groups, without the rest's. While there is room `rest_group_id` is NULL; from then on
-- nothing is added, whatever the limit becomes, and every combination without a group of its own is the rest.
CREATE TABLE group_sets (
    tenant_id     integer NOT NULL,
    names         text NOT NULL,
    held          bigint NOT NULL,
    rest_group_id bigint,
    PRIMARY KEY (tenant_id, names)
);
SELECT protect_tenants('group_sets');
SELECT grant_rights('group_sets', 'SELECT, INSERT, UPDATE (held, rest_group_id)');

-- The names of a group's dimensions as `group_sets` has them. Read out of the text: the functions of json refuse values
-- that text cannot hold. Names are of these characters alone.
CREATE FUNCTION group_names(dimensions json) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(string_agg(pair[1], ',' ORDER BY pair[1] COLLATE "C"), '')
    FROM regexp_matches(dimensions::text, '"([A-Za-z0-9._-]+)": "(?:[^"\\]|\\.)*"', 'g') AS pair
$$;

-- Counts with the change itself, whatever makes it: the release before this one adds groups as well while replicas are
-- replaced. Where there is a rest it is refused.
CREATE FUNCTION count_groups() RETURNS trigger
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO group_sets AS s (tenant_id, names, held)
    SELECT a.tenant_id, a.names, count(*)
    FROM (SELECT tenant_id, group_names(dimensions) AS names FROM added WHERE NOT rest) AS a
    GROUP BY a.tenant_id, a.names ORDER BY a.tenant_id, a.names COLLATE "C"
    ON CONFLICT (tenant_id, names) DO UPDATE SET held = s.held + excluded.held;
    IF EXISTS (
        SELECT FROM added a
        JOIN group_sets s ON s.tenant_id = a.tenant_id AND s.names = group_names(a.dimensions)
        WHERE NOT a.rest AND s.rest_group_id IS NOT NULL
    ) THEN
        RAISE EXCEPTION 'no group is added where there is a rest' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

-- This waits for who adds groups, and holds the others up until the end: so nothing is added that is not counted.
CREATE TRIGGER groups_counted AFTER INSERT ON dimension_groups REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION count_groups();
SELECT set_config('meterline.tenant_ids', '*', true);
INSERT INTO group_sets (tenant_id, names, held)
SELECT tenant_id, group_names(dimensions), count(*) FROM dimension_groups GROUP BY 1, 2;

-- A meter that nothing uses can be deleted.

-- Since when something outside may refer to a meter, for example a price; NULL: nothing ever did. Of those that are there
-- nobody can say.
ALTER TABLE meters ADD COLUMN referred_at timestamptz;
UPDATE meters SET referred_at = now();
SELECT grant_rights('meters', 'SELECT, INSERT, UPDATE (referred_at), DELETE');

-- Meters that were deleted, of whose numbers no row tells any more. The greatest `deletion` tells whether any is new.
CREATE TABLE meter_deletions (
    deletion   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    meter_id   integer NOT NULL UNIQUE,
    name       text NOT NULL,
    deleted_by text NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT now()
);
SELECT grant_rights('meter_deletions', 'SELECT, INSERT');
REVOKE ALL ON ALL SEQUENCES IN SCHEMA aggregate FROM meterline_aggregate;
