-- A message whose batches are applied apart from each other, since some of them cannot be: each batch counts by a key of
-- its own, and the message as a whole never.
ALTER TABLE applied_messages ADD COLUMN in_parts boolean NOT NULL DEFAULT false;
