"""`python -m tests.fault.fork_report ARGUMENT…`: prints a JSON object of what forks must not share, and ends
with code 3."""

from __future__ import annotations

import json
import os
import random
import sys

from meterline import crashpoints
from meterline.ids import new_id

if __name__ == "__main__":
    report = {
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "crash_at": crashpoints._TARGET,
        "parent": os.getppid(),
        "session": os.getsid(0),
        # The second half of a UUIDv7 is random.
        "unique": [str(new_id())[19:], random.random(), os.urandom(8).hex()],
    }
    sys.stdout.write(json.dumps(report))
    sys.exit(3)
