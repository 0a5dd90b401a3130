"""Services with one planted bug each: a fault test that does not catch its bug proves nothing."""
