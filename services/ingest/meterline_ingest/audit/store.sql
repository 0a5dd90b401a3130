-- name: record
INSERT INTO audit_log (tenant_id, audit_id, principal, action, subject, reason, details)
VALUES (%(tenant_id)s, %(audit_id)s, %(principal)s, %(action)s, %(subject)s, %(reason)s, %(details)s)

-- name: entries
SELECT audit_id, at, principal, action, subject, reason, details
FROM audit_log
WHERE tenant_id = %(tenant_id)s
  AND (%(before)s::uuid IS NULL OR audit_id < %(before)s)
  AND (%(action)s::text = '' OR action = %(action)s)
  AND (%(principal)s::text = '' OR principal = %(principal)s)
  AND (%(subject)s::text = '' OR subject = %(subject)s)
  AND (%(start)s::timestamptz IS NULL OR at >= %(start)s)
  AND (%(end)s::timestamptz IS NULL OR at < %(end)s)
ORDER BY audit_id DESC
LIMIT %(limit)s
