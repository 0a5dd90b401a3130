-- A timer may be started and stopped when all is over. Only a heartbeat says that it went on until then; of timers from
-- before nobody knows whether they had one.
ALTER TABLE timers ADD COLUMN has_heartbeat boolean NOT NULL DEFAULT true;
SELECT grant_rights(
    'timers',
    'SELECT, INSERT, DELETE, UPDATE (last_heartbeat_at, has_heartbeat, state, stopped_at, flags, event_id, problem, '
    'attempts, due_at)'
);
