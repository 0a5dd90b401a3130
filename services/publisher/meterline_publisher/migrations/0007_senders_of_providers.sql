-- Each provider has a sender of its own, which must not read past the rows of a provider that takes none. It holds what
-- is on its way: few rows, so that the sender waits for a moment only.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX publications_due_by_provider ON publications (provider, next_attempt_at)
    WHERE state IN ('pending', 'ambiguous');
