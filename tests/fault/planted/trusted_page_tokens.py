"""Publisher that accepts any number in a page token as the time of a row."""

from __future__ import annotations

from meterline.clock import to_datetime
from meterline.rpc import paging
from meterline_publisher.main import main

if __name__ == "__main__":
    vars(paging)["instant"] = lambda part: to_datetime(int(part))
    main()
