"""Pytest plugin: the assignment of tests to the workers of a parallel run, and their order.

Tests are assigned one by one, the longest first, so that only short ones remain at the end and no worker
waits long for another. Without workers the plugin has no effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadGroupScheduling

# From the longest tests to the shortest. Other tests are in between.
_LONG: Final = ("tests/integration/demo/", "tests/fault/", "tests/integration/")
_SHORT: Final = ("tests/architecture/", "tests/unit/")
# Each of these tests starts its own servers. Other tests share those of their module.
_ALONE: Final = ("tests/fault/", "tests/integration/demo/test_ending.py", "tests/integration/dev/")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: turn(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadGroupScheduling | None:
    from xdist.scheduler import LoadGroupScheduling

    class Schedule(LoadGroupScheduling):  # type: ignore[misc]
        """Hands out groups of tests in the order in which they were collected."""

        def _split_scope(self, nodeid: str) -> str:
            return group(super()._split_scope(nodeid))

    return Schedule(config, log) if config.getvalue("dist") == "loadgroup" else None


def turn(nodeid: str) -> int:
    """The sort key of a test."""
    for at, place in enumerate(_LONG):
        if nodeid.startswith(place):
            return at
    for at, place in enumerate(_SHORT):
        if nodeid.startswith(place):
            return len(_LONG) + 1 + at
    return len(_LONG)


def group(name: str) -> str:
    """The group of tests for one worker: the tests of a module, or those with the same mark.

    name: of a test, or of a group by `xdist_group`
    """
    return name if name.startswith(_ALONE) or "::" not in name else name.partition("::")[0]
