-- name: insert
-- tenant: a message may carry many tenants
INSERT INTO outbox (message_id, subject, headers, payload)
SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[]::jsonb[], %s::bytea[])

-- name: claim
-- tenant: the relay carries every tenant's messages
SELECT message_id, subject, headers, payload
FROM outbox
WHERE published_at IS NULL
ORDER BY message_id
LIMIT %s
FOR UPDATE SKIP LOCKED

-- name: mark_published
-- tenant: the relay carries every tenant's messages
UPDATE outbox SET published_at = now() WHERE message_id = ANY(%s)

-- name: there
-- tenant: operators send messages again
SELECT message_id FROM outbox WHERE message_id = ANY(%s)

-- name: publish_again
-- tenant: operators send messages again
UPDATE outbox SET published_at = NULL WHERE message_id = ANY(%s) AND published_at IS NOT NULL

-- name: restore
-- tenant: a message may carry many tenants
INSERT INTO outbox (message_id, subject, headers, payload)
SELECT * FROM unnest(%s::uuid[], %s::text[], %s::text[]::jsonb[], %s::bytea[])
ON CONFLICT DO NOTHING

-- name: oldest_pending
-- tenant: a metric of the whole service
SELECT count(*), (SELECT message_id FROM outbox WHERE published_at IS NULL ORDER BY message_id LIMIT 1)
FROM outbox WHERE published_at IS NULL

-- name: maintain
-- tenant: partitions hold every tenant's messages
SELECT dropped FROM maintain_messaging(%s)
