"""Ingest that parses requests up to the transport's size limit on its event loop."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from meterline.auth.rules import Rules, rules_of
from meterline.rpc import calls
from meterline.service import platform
from meterline_ingest.main import main

from tests.fault.watched import watch


def unbounded(services: Iterable[str]) -> Rules:
    """The rules with the transport's size limit."""
    return {method: replace(rule, max_bytes=4 << 20) for method, rule in rules_of(services).items()}


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
    vars(platform)["rules_of"] = unbounded
    vars(calls)["LARGE_REQUEST"] = 64 << 20
    main()
