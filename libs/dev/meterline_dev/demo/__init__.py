"""The demonstration: real flights from capture to an invoice, and the proof that nothing was lost."""
