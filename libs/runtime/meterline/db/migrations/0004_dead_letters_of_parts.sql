-- A part of a message may be a dead letter of its own: the same in every schema. When the message comes again, its
-- letters are looked for by the message that they name. Rows are few, and seldom written.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX dead_letters_of_parts ON dead_letters (consumer, (headers ->> 'Meterline-Part-Of'))
WHERE state = 'open';
