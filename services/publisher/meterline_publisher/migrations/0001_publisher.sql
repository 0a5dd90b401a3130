-- Prices, replicas of usage, invoices with their calculations, and the ledger of what was sent.

-- What was rated or put must stay as it was, whoever asks.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

-- The catalogue: one row a version. `body` is the canonical JSON, byte for byte what `digest` covers.
CREATE TABLE prices (
    plan               text NOT NULL,
    meter              text NOT NULL,
    version            integer NOT NULL CHECK (version >= 1),
    effective_from     timestamptz NOT NULL,
    body               text NOT NULL,
    digest             text NOT NULL,
    description        text NOT NULL,
    billing_event_name text NOT NULL,
    billing_scale      integer NOT NULL,
    created_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (plan, meter, version)
);
CREATE TRIGGER prices_immutable BEFORE UPDATE OR DELETE ON prices
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- The rules of one rating, named by their content: [{rule, version, from, digest}, ...].
CREATE TABLE rule_sets (
    rule_set_id uuid PRIMARY KEY,
    digest      text NOT NULL,
    rules       jsonb NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER rule_sets_immutable BEFORE UPDATE OR DELETE ON rule_sets
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- Replica of the aggregate service's month windows, guarded by revision.
CREATE TABLE usage (
    tenant_id    integer NOT NULL,
    period_start timestamptz NOT NULL,
    meter        text NOT NULL,
    period_end   timestamptz NOT NULL,
    value        numeric NOT NULL,
    event_count  bigint NOT NULL,
    revision     bigint NOT NULL,
    aggregation  text NOT NULL,
    trace        text NOT NULL,
    PRIMARY KEY (tenant_id, period_start, meter)
);

CREATE TABLE invoices (
    tenant_id           integer NOT NULL,
    invoice_id          uuid NOT NULL,
    plan                text NOT NULL,
    currency            text NOT NULL,
    period_start        timestamptz NOT NULL,
    period_end          timestamptz NOT NULL,
    state               text NOT NULL CHECK (state IN ('open', 'published', 'finalized', 'disputed')),
    total               numeric NOT NULL,
    version             bigint NOT NULL,
    rule_set_id         uuid NOT NULL,
    external_invoice_id text NOT NULL,
    external_total      numeric,
    trace               text NOT NULL,
    PRIMARY KEY (tenant_id, invoice_id),
    UNIQUE (tenant_id, period_start)
);
-- What is still to be settled; most invoices are not.
CREATE INDEX invoices_unsettled ON invoices (period_end, tenant_id) WHERE state IN ('open', 'published');

CREATE TABLE invoice_lines (
    tenant_id          integer NOT NULL,
    invoice_id         uuid NOT NULL,
    line_id            uuid NOT NULL,
    meter              text NOT NULL,
    description        text NOT NULL,
    quantity           numeric NOT NULL,
    amount             numeric NOT NULL,
    exact_amount       text NOT NULL,
    provider_amount    numeric NOT NULL,
    price_version      integer NOT NULL,
    price_digest       text NOT NULL,
    steps              jsonb NOT NULL,
    calculation_id     uuid NOT NULL,
    inputs_digest      text NOT NULL,
    usage_value        numeric NOT NULL,
    usage_revision     bigint NOT NULL,
    event_count        bigint NOT NULL,
    billing_event_name text NOT NULL,
    billing_scale      integer NOT NULL,
    billing_target     numeric,
    trace              text NOT NULL,
    PRIMARY KEY (tenant_id, line_id),
    UNIQUE (tenant_id, invoice_id, meter)
);

-- Every calculation that was ever made, with all that it used. `inputs` and `output` are canonical JSON.
CREATE TABLE calculations (
    tenant_id       integer NOT NULL,
    calculation_id  uuid NOT NULL,
    invoice_id      uuid NOT NULL,
    meter           text NOT NULL,
    period_start    timestamptz NOT NULL,
    period_end      timestamptz NOT NULL,
    priced_at       timestamptz NOT NULL,
    rule_set_id     uuid NOT NULL,
    rule_set_digest text NOT NULL,
    rules           jsonb NOT NULL,
    inputs          text NOT NULL,
    inputs_digest   text NOT NULL,
    output          text NOT NULL,
    code_version    text NOT NULL,
    trace           text NOT NULL,
    PRIMARY KEY (tenant_id, calculation_id)
);
CREATE TRIGGER calculations_immutable BEFORE UPDATE OR DELETE ON calculations
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- The ledger. Rows of one (tenant, meter) are sent one after another, in the order of `seq`.
CREATE TABLE publications (
    tenant_id        integer NOT NULL,
    identifier       text NOT NULL,
    seq              bigint GENERATED ALWAYS AS IDENTITY,
    invoice_id       uuid NOT NULL,
    calculation_id   uuid NOT NULL,
    meter            text NOT NULL,
    period_start     timestamptz NOT NULL,
    period_end       timestamptz NOT NULL,
    revision         integer NOT NULL,
    value            numeric NOT NULL,
    event_name       text NOT NULL,
    customer_id      text NOT NULL,
    event_at         timestamptz NOT NULL,
    key_generation   integer NOT NULL DEFAULT 0,
    state            text NOT NULL CHECK (state IN ('pending', 'ambiguous', 'sent', 'rejected')),
    attempts         integer NOT NULL DEFAULT 0,
    first_attempt_at timestamptz,
    next_attempt_at  timestamptz NOT NULL,
    sent_at          timestamptz,
    error_code       text NOT NULL DEFAULT '',
    trace            text NOT NULL,
    PRIMARY KEY (tenant_id, identifier),
    UNIQUE (tenant_id, meter, period_start, revision)
);
-- What is on its way: small however long the ledger grows.
CREATE INDEX publications_due ON publications (next_attempt_at) WHERE state IN ('pending', 'ambiguous');
CREATE INDEX publications_lane ON publications (tenant_id, meter, seq) WHERE state IN ('pending', 'ambiguous');
CREATE INDEX publications_rejected ON publications (tenant_id) WHERE state = 'rejected';
CREATE INDEX publications_by_seq ON publications (tenant_id, seq);
