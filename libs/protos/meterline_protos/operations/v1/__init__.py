"""Generated from protos/ by tools/generate_protos.py; not edited by hand."""
