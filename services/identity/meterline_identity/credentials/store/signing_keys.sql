-- name: insert_signing_key
INSERT INTO signing_keys (tenant_id, generation, key_id, secret, created_at, created_by)
SELECT %(tenant_id)s, coalesce(max(generation), 0) + 1, %(key_id)s, %(sealed)s, %(now)s, %(created_by)s
FROM signing_keys
WHERE tenant_id = %(tenant_id)s
RETURNING tenant_id, generation, key_id, secret, created_at, created_by, expires_at, revoked_at, revoked_by

-- name: signing_keys
-- Keys newer than an active one are revoked or the newest, so the first of these include all active ones.
SELECT tenant_id, generation, key_id, secret, created_at, created_by, expires_at, revoked_at, revoked_by
FROM signing_keys
WHERE tenant_id = %s
ORDER BY revoked_at IS NULL DESC, generation DESC
LIMIT 100

-- name: signing_keys_by_id
SELECT tenant_id, generation, key_id, secret, created_at, created_by, expires_at, revoked_at, revoked_by
FROM signing_keys
WHERE tenant_id = %s AND key_id = ANY(%s)

-- name: expire_signing_key
UPDATE signing_keys SET expires_at = %(expires_at)s
WHERE tenant_id = %(tenant_id)s AND generation = %(generation)s

-- name: revoke_signing_key
-- Revoking again changes nothing.
UPDATE signing_keys SET
    secret = NULL,
    revoked_at = coalesce(revoked_at, %(now)s),
    revoked_by = CASE WHEN revoked_at IS NULL THEN %(revoked_by)s ELSE revoked_by END
WHERE tenant_id = %(tenant_id)s AND key_id = %(key_id)s
RETURNING tenant_id, generation, key_id, secret, created_at, created_by, expires_at, revoked_at, revoked_by
