"""Facts leave a service through a table: written with the change, published by the relay afterwards."""
