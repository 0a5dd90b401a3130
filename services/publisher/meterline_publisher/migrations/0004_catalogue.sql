-- A version takes effect at an instant or on a day, which begins at midnight in each tenant's own time zone.
-- The service before this one cannot read a version that takes effect on a day: rating and the catalogue fail
-- there rather than bill by the wrong version.
-- squawk-ignore ban-drop-not-null
ALTER TABLE prices ALTER COLUMN effective_from DROP NOT NULL;
ALTER TABLE prices ADD COLUMN effective_date date;
-- Rows that are there have an instant and no day.
ALTER TABLE prices ADD CONSTRAINT prices_effect_is_one
    CHECK (num_nonnulls(effective_from, effective_date) = 1) NOT VALID;

-- How a meter's usage reaches the billing provider. Apart from its prices, which never change, since a wrong
-- name or scale must be mended for usage that was priced already. The last version of a meter holds; what a
-- price says of it stays as the request said it.
CREATE TABLE deliveries (
    plan               text NOT NULL,
    meter              text NOT NULL,
    version            integer NOT NULL CHECK (version >= 1),
    billing_event_name text NOT NULL,
    billing_scale      integer NOT NULL CHECK (billing_scale BETWEEN 0 AND 9),
    put_by             text NOT NULL,
    put_at             timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (plan, meter, version)
);
CREATE TRIGGER deliveries_immutable BEFORE UPDATE OR DELETE ON deliveries
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
SELECT grant_rights('deliveries', 'SELECT, INSERT');

-- Of the prices that are there, the version in force now says it; the first one where none is yet.
INSERT INTO deliveries (plan, meter, version, billing_event_name, billing_scale, put_by)
SELECT DISTINCT ON (plan, meter) plan, meter, 1, billing_event_name, billing_scale, 'migration'
FROM prices
ORDER BY plan, meter, effective_from > now(), CASE WHEN effective_from > now() THEN -version ELSE version END DESC;

-- Versions that were taken back before any calculation used them. Prices are never deleted, so that what was put
-- stays on record, and its number taken.
CREATE TABLE price_withdrawals (
    plan         text NOT NULL,
    meter        text NOT NULL,
    version      integer NOT NULL,
    withdrawn_by text NOT NULL,
    withdrawn_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (plan, meter, version),
    FOREIGN KEY (plan, meter, version) REFERENCES prices (plan, meter, version)
);
CREATE TRIGGER price_withdrawals_immutable BEFORE UPDATE OR DELETE ON price_withdrawals
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
SELECT grant_rights('price_withdrawals', 'SELECT, INSERT');
-- What was ever used is asked before a version is withdrawn.
SELECT grant_rights('rule_sets', 'SELECT, INSERT');

-- The catalogue as it holds. A price that the service before this one puts has no delivery yet.
CREATE VIEW catalogue AS
SELECT p.plan, p.meter, p.version, p.effective_from, p.effective_date, p.body, p.description,
       coalesce(d.billing_event_name, p.billing_event_name) AS billing_event_name,
       coalesce(d.billing_scale, p.billing_scale) AS billing_scale
FROM prices p
LEFT JOIN LATERAL (
    SELECT billing_event_name, billing_scale FROM deliveries
    WHERE plan = p.plan AND meter = p.meter
    ORDER BY version DESC LIMIT 1
) d ON true
WHERE NOT EXISTS (
    SELECT FROM price_withdrawals w WHERE w.plan = p.plan AND w.meter = p.meter AND w.version = p.version
);
SELECT grant_rights('catalogue', 'SELECT');

-- Whether a period of a tenant is billed: it ends after the tenant's first billed day has begun. The period that this
-- day lies in is billed as a whole. NULL: all are.
CREATE FUNCTION is_billed(billed_from date, time_zone text, period_end timestamptz) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT billed_from IS NULL OR billed_from < (period_end AT TIME ZONE time_zone)::date
$$;
