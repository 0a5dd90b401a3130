-- name: wrapped_keys
SELECT tenant_id, key_id, purpose, wrapped, master_key_id, created_at <= now() - %(settling)s AS settled
FROM data_keys
WHERE tenant_id = ANY(%(tenant_ids)s)
ORDER BY tenant_id, key_id

-- name: key_records
SELECT key_id, purpose, state, master_key_id, sealed, created_at, retired_at, resealed_at
FROM data_keys
WHERE tenant_id = %s
ORDER BY key_id

-- name: lock_keys
SELECT pg_advisory_xact_lock(hashtext('meterline.ingest.data_keys'), %(tenant_id)s)

-- name: add_keys
INSERT INTO data_keys (tenant_id, key_id, purpose, wrapped, master_key_id, state)
SELECT *, CASE WHEN wrapped IS NULL THEN 'shredded' ELSE 'current' END
FROM unnest(
    %(tenant_ids)s::int4[], %(key_ids)s::int4[], %(purposes)s::text[], %(wrapped)s::bytea[],
    %(master_key_ids)s::text[]
) AS new (tenant_id, key_id, purpose, wrapped, master_key_id)
ON CONFLICT DO NOTHING

-- name: retire_key
UPDATE data_keys SET state = 'retired', retired_at = clock_timestamp()
WHERE tenant_id = %s AND key_id = %s AND state = 'current'

-- name: lock_key_rows
-- Every transaction that changes several rows locks them in this order, to avoid deadlocks.
SELECT count(*) FROM (
    SELECT key_id FROM data_keys WHERE tenant_id = %s ORDER BY tenant_id, key_id FOR UPDATE
) AS locked

-- name: shred_keys
UPDATE data_keys
SET state = 'shredded', wrapped = NULL, retired_at = coalesce(retired_at, clock_timestamp())
WHERE tenant_id = %s AND state <> 'shredded'

-- name: add_sealed
WITH counted AS (
    SELECT k.tenant_id, k.key_id, new.sealed
    FROM data_keys k
    JOIN unnest(%(tenant_ids)s::int4[], %(key_ids)s::int4[], %(sealed)s::int8[])
        AS new (tenant_id, key_id, sealed) USING (tenant_id, key_id)
    ORDER BY k.tenant_id, k.key_id
    FOR UPDATE OF k
), added AS (
    UPDATE data_keys k SET sealed = k.sealed + counted.sealed
    FROM counted
    WHERE k.tenant_id = counted.tenant_id AND k.key_id = counted.key_id
    RETURNING k.tenant_id, k.key_id, k.state, k.sealed
)
SELECT tenant_id, key_id FROM added WHERE state = 'current' AND sealed >= %(most)s

-- name: aged_keys
SELECT tenant_id, key_id
FROM data_keys
WHERE state = 'current' AND purpose = 'sealing' AND created_at <= now() - %(age)s
ORDER BY created_at
LIMIT %(limit)s

-- name: keys_of_other_masters
SELECT tenant_id, key_id, purpose, wrapped, master_key_id, true AS settled
FROM data_keys
WHERE state <> 'shredded' AND master_key_id <> %(master_key_id)s
  AND (tenant_id, key_id) > (%(after_tenant_id)s, %(after_key_id)s)
ORDER BY tenant_id, key_id
LIMIT %(limit)s

-- name: rewrap_keys
WITH same AS (
    -- Skips keys that were shredded or rewrapped meanwhile.
    SELECT k.tenant_id, k.key_id, new.wrapped
    FROM data_keys k
    JOIN unnest(%(tenant_ids)s::int4[], %(key_ids)s::int4[], %(before)s::bytea[], %(wrapped)s::bytea[])
        AS new (tenant_id, key_id, before, wrapped) USING (tenant_id, key_id)
    WHERE k.wrapped = new.before
    ORDER BY k.tenant_id, k.key_id
    FOR UPDATE OF k
)
UPDATE data_keys k SET wrapped = same.wrapped, master_key_id = %(master_key_id)s
FROM same
WHERE k.tenant_id = same.tenant_id AND k.key_id = same.key_id

-- name: keys_to_reseal
SELECT tenant_id, max(key_id)
FROM data_keys
WHERE state = 'retired' AND resealed_at IS NULL AND retired_at <= now() - %(settling)s
GROUP BY tenant_id
ORDER BY min(retired_at)
LIMIT %(limit)s

-- name: mark_resealed
UPDATE data_keys SET resealed_at = now()
WHERE tenant_id = %s AND key_id <= %s AND state = 'retired' AND resealed_at IS NULL
