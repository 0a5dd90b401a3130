"""Names of environment variables that several processes of a mesh read."""

from typing import Final

STRIPE_KEY: Final = "METERLINE_STRIPE_API_KEY"
# The key of the Stripe double's control calls. It is no argument, since every user of the machine can see
# arguments.
CONTROL_KEY: Final = "METERLINE_DOUBLE_CONTROL_KEY"
