-- name: register
-- tenant: a message may carry many tenants
INSERT INTO inbox (message_id, consumer)
SELECT unnest(%s::uuid[]), %s
ON CONFLICT DO NOTHING
RETURNING message_id

-- name: bury
-- tenant: a message may carry many tenants
INSERT INTO dead_letters (message_id, consumer, subject, headers, payload, error)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING
