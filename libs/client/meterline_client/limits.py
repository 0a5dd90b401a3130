"""Limits of the capture protocol (protos/meterline/ingest/v1). The server holds every caller to them."""

from __future__ import annotations

MAX_ID_LENGTH = 128
MAX_SUBJECT_LENGTH = 256
MAX_DIMENSION_VALUE_LENGTH = 256
MAX_SOURCE_LENGTH = 128
MAX_NAME_LENGTH = 64
MAX_DIMENSIONS = 16
MAX_QUANTITIES = 4
MAX_PROPERTIES = 32
MAX_PROPERTY_VALUE_LENGTH = 4_096

# A quantity: at most 18 digits in all, 9 of them decimals. Before the point it has at most 18 less
# the scale of its type, which the server knows.
MAX_DIGITS = 18
MAX_SCALE = 9
UNITS_BOUND = 10**MAX_DIGITS

MAX_BATCH_EVENTS = 10_000
# The protocol's 4 MiB, less what is added to a request when it is sent.
MAX_REQUEST_BYTES = (4 << 20) - 1_024
