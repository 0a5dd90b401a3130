"""Doubles of Stripe: one for each module, or a separate one for a test that moves the clock."""

from collections.abc import Iterator

import pytest
from meterline_dev.stripe_double import DoubleSettings, Levers, running_double

from tests.contract.stripe_double.lab import LEVER_KEY, Lab


@pytest.fixture(scope="module")
def shared_address() -> Iterator[str]:
    with running_double(
        settings=DoubleSettings(lever_key=LEVER_KEY, error_report_delay=0.01, webhook_backoff=0.01)
    ) as double:
        yield double.address


@pytest.fixture(scope="module")
def levers(shared_address: str) -> Iterator[Levers]:
    with Levers(shared_address, LEVER_KEY) as levers:
        yield levers


@pytest.fixture
def lab(shared_address: str, levers: Levers) -> Lab:
    """A lab on the module's double; its faults are cleared and its clock follows real time."""
    levers.clear_faults()
    levers.follow_real_time()
    return Lab(shared_address, levers)
