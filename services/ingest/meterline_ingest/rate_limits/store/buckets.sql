-- name: add_buckets
INSERT INTO rate_buckets (tenant_id)
SELECT tenant_id FROM unnest(%s::int4[]) AS wanted (tenant_id) ORDER BY tenant_id
ON CONFLICT DO NOTHING

-- name: exchange_tokens
-- Rows are locked in one order, so that replicas do not deadlock. The clock is read after that: otherwise a
-- transaction that waited for another would fill the bucket for time that the other has used. A clock that
-- is set back fills nothing, and takes nothing. Tokens that come back count only if taken under the present
-- limits: those of larger limits would refill the bucket of smaller ones.
WITH asked AS MATERIALIZED (
    SELECT tenant_id, need, ahead, back, back_rate, back_burst
    FROM unnest(%s::int4[], %s::int8[], %s::int8[], %s::int8[], %s::int8[], %s::int8[])
        AS asked (tenant_id, need, ahead, back, back_rate, back_burst)
), locked AS MATERIALIZED (
    SELECT tenant_id, level, filled_at
    FROM rate_buckets
    WHERE tenant_id IN (SELECT tenant_id FROM asked)
    ORDER BY tenant_id
    FOR NO KEY UPDATE
), timed AS MATERIALIZED (
    SELECT tenant_id, level, filled_at, clock_timestamp() AS moment FROM locked
), filled AS MATERIALIZED (
    SELECT tenant_id, moment, need, ahead, l.events_per_second,
           least(
               l.burst::numeric * 1000000,
               level
               + CASE WHEN (back_rate, back_burst) = (l.events_per_second, l.burst) THEN back ELSE 0 END * 1000000
               + greatest(0, trunc(extract(epoch FROM moment - filled_at) * 1000000)) * l.events_per_second
           )::bigint AS level
    FROM timed
    JOIN asked USING (tenant_id)
    JOIN tenants t USING (tenant_id)
    LEFT JOIN plan_limits p USING (plan)
    LEFT JOIN tenant_limits o USING (tenant_id)
    CROSS JOIN LATERAL (
        SELECT coalesce(o.events_per_second, p.events_per_second) AS events_per_second,
               CASE WHEN o.tenant_id IS NULL THEN p.burst ELSE o.burst END AS burst
    ) l
    WHERE l.events_per_second > 0
), granted AS MATERIALIZED (
    -- `need` is granted in full if there is an event; `ahead` only from what there is.
    SELECT tenant_id, moment, events_per_second, level,
           CASE
               WHEN level < 1000000 THEN 0
               ELSE need + greatest(0, least(ahead, level / 1000000 - need))
           END AS tokens
    FROM filled
)
UPDATE rate_buckets b
SET level = g.level - g.tokens * 1000000, filled_at = g.moment
FROM granted g
WHERE b.tenant_id = g.tenant_id
RETURNING b.tenant_id, g.tokens, b.level, g.events_per_second

-- name: level_now
SELECT least(
           %(burst)s::numeric * 1000000,
           level
           + greatest(0, trunc(extract(epoch FROM clock_timestamp() - filled_at) * 1000000))
           * %(events_per_second)s::bigint
       )::bigint
FROM rate_buckets
WHERE tenant_id = %(tenant_id)s
