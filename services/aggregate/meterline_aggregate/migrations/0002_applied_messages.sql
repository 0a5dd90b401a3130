-- Messages that were applied, by the batches they brought: a message that comes again under another id, or
-- after the inbox has forgotten it, counts once, whether its events are metered or not.
CREATE TABLE applied_messages (
    batches uuid PRIMARY KEY
);
