-- name: register
-- tenant: a message may carry many tenants
INSERT INTO inbox (message_id, consumer)
SELECT unnest(%s::uuid[]), %s
ON CONFLICT DO NOTHING
RETURNING message_id
