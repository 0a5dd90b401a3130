"""Doubles of Stripe: one for each module, or a separate one for a test that moves the clock."""

from collections.abc import Iterator

import pytest
from meterline_dev.stripe_double import ControlClient, DoubleSettings, running_double

from tests.contract.stripe_double.lab import CONTROL_KEY, Lab


@pytest.fixture(scope="module")
def shared_address() -> Iterator[str]:
    with running_double(
        settings=DoubleSettings(control_key=CONTROL_KEY, error_report_delay=0.01, webhook_backoff=0.01)
    ) as double:
        yield double.address


@pytest.fixture(scope="module")
def control(shared_address: str) -> Iterator[ControlClient]:
    with ControlClient(shared_address, CONTROL_KEY) as control:
        yield control


@pytest.fixture
def lab(shared_address: str, control: ControlClient) -> Lab:
    """A lab on the module's double; its faults are cleared and its clock follows real time."""
    control.clear_faults()
    control.follow_real_time()
    return Lab(shared_address, control)
