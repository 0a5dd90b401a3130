"""Tables that services keep of another service's facts; `meterline.tenants` reads and writes them."""
