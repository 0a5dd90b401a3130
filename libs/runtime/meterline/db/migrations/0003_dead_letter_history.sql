-- A dead letter that was redriven stays, as its history: the same in every schema.
ALTER TABLE dead_letters
    ADD COLUMN state       text NOT NULL DEFAULT 'open',
    ADD COLUMN attempts    integer NOT NULL DEFAULT 1,
    ADD COLUMN failed_at   timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN redriven_at timestamptz,
    ADD COLUMN redriven_by text NOT NULL DEFAULT '',
    ADD COLUMN reason      text NOT NULL DEFAULT '';

ALTER TABLE dead_letters
    ADD CONSTRAINT dead_letters_state
    CHECK (state = 'open' AND redriven_at IS NULL OR state = 'redriven' AND redriven_at IS NOT NULL) NOT VALID;

UPDATE dead_letters SET failed_at = received_at;

-- What is counted for the metric, however long the history is. Rows are few, and seldom written.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX dead_letters_open ON dead_letters (consumer) WHERE state = 'open';
