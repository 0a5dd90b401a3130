-- Meter kinds come with releases, see docs/adr/0022-meter-kinds-are-tuples-of-slots.md.

-- Which kinds there are is known to the code. A release that knows more creates meters of them while others still run.
-- squawk-ignore ban-drop-constraint
ALTER TABLE meters DROP CONSTRAINT meters_aggregation_check;

-- What a batch may have added to a meter whose kind the replica that applied it did not know: the key is that of the
-- contribution that is missing. A row goes when its events are folded, in the same transaction.
-- event_count: events of the meter's type that the batch has there, added less taken away
-- taken: of those that it takes away, 16 bytes each, which ones the meter has counted or will count
CREATE TABLE skipped (
    tenant_id    integer NOT NULL,
    meter_id     integer NOT NULL,
    window_start timestamptz NOT NULL,
    batch_id     uuid NOT NULL,
    event_count  bigint NOT NULL,
    taken        bytea NOT NULL,
    PRIMARY KEY (tenant_id, meter_id, window_start, batch_id)
);
CREATE INDEX skipped_of_batch ON skipped (tenant_id, batch_id);
SELECT protect_tenants('skipped');
SELECT grant_rights('skipped', 'SELECT, INSERT, DELETE');

-- Who stores members of a tenant's meter holds a lock shared until the end, and who drops some holds it alone. Its number is
-- above 2^32, where no lock of 32 bits is.
-- Replicas of the release before do not take it by themselves, so it is taken for them, member by member; the others say
-- that they hold it. To drop members, replicas of the release before lock the table, which all wait for.
CREATE FUNCTION hold_members() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared((NEW.tenant_id::bigint << 32) | NEW.meter_id);
    RETURN NEW;
END $$;

CREATE TRIGGER members_held BEFORE INSERT ON window_members
    FOR EACH ROW WHEN (current_setting('meterline.members_held', true) IS DISTINCT FROM 'on')
    EXECUTE FUNCTION hold_members();
