-- Plans that are given to no tenant any more, and those that are again. Versions are immutable and the last of a plan
-- holds, so that who archived and restored it stays on record. A plan without a row was never archived.
CREATE TABLE plan_archivals (
    plan       text NOT NULL,
    version    integer NOT NULL CHECK (version >= 1),
    archived   boolean NOT NULL,
    changed_by text NOT NULL,
    changed_at timestamptz NOT NULL,
    PRIMARY KEY (plan, version)
);
CREATE TRIGGER plan_archivals_immutable BEFORE UPDATE OR DELETE ON plan_archivals
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
SELECT grant_rights('plan_archivals', 'SELECT, INSERT');
