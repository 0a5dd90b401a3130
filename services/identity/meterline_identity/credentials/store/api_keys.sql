-- name: insert_api_key
INSERT INTO api_keys (key_id, tenant_id, name, permissions, secret_digest, created_at, created_by)
VALUES (
    %(key_id)s, %(tenant_id)s, %(name)s, %(permissions)s, %(secret_digest)s, %(created_at)s, %(created_by)s
)

-- name: api_keys
-- In the order they were made. Without a tenant: those for all tenants.
SELECT key_id, name, permissions, created_at, created_by, revoked_at, revoked_by
FROM api_keys
WHERE tenant_id IS NOT DISTINCT FROM %(tenant_id)s
  AND (created_at, key_id) > (%(after)s, %(after_key)s)
ORDER BY created_at, key_id
LIMIT %(limit)s

-- name: valid_api_key
-- tenant: the key decides its tenant
SELECT api_keys.secret_digest, coalesce(tenant_accounts.slug, ''), api_keys.name, api_keys.permissions
FROM api_keys
LEFT JOIN tenant_accounts USING (tenant_id)
WHERE api_keys.key_id = %s AND api_keys.revoked_at IS NULL

-- name: revoke_api_key
-- Revoking again changes nothing.
UPDATE api_keys SET
    revoked_at = coalesce(revoked_at, %(now)s),
    revoked_by = CASE WHEN revoked_at IS NULL THEN %(revoked_by)s ELSE revoked_by END
WHERE key_id = %(key_id)s AND tenant_id IS NOT DISTINCT FROM %(tenant_id)s
RETURNING key_id, name, permissions, created_at, created_by, revoked_at, revoked_by
