"""Services with one bug each, planted on purpose: a fault test that does not catch its bug proves nothing."""
