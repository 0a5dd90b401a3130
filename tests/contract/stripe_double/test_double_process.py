"""The double as a process, its state on disk, and the library's asynchronous calls."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import stripe
from meterline_dev.stripe_double import ControlClient

from tests.contract.stripe_double.lab import CONTROL_KEY, Lab, instant

START, END = instant("2026-03-01T00:00:00"), instant("2026-04-01T00:00:00")


@contextmanager
def process(db: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    command = [sys.executable, "-m", "meterline_dev.stripe_double", "--db", str(db), *options]
    environment = {**os.environ, "METERLINE_DOUBLE_CONTROL_KEY": CONTROL_KEY}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert child.stdout is not None
        yield child, child.stdout.readline().strip()
    finally:
        child.kill()
        child.communicate()


@pytest.mark.req("X4")
def test_first_line_is_the_address_of_the_ready_double(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "meterline_dev.stripe_double", "--ready-fd", str(writing)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=[writing], cwd=tmp_path)
    os.close(writing)
    try:
        assert child.stdout is not None
        address = child.stdout.readline().strip()
        with os.fdopen(reading) as ready:
            assert ready.read() == f"{address}\n"
        assert httpx.get(f"{address}/healthz", trust_env=False).json() == {"status": "ok"}
        child.send_signal(signal.SIGTERM)
        child.wait(timeout=10)
    finally:
        child.kill()
        child.communicate()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.req("T7.3")
def test_killed_double_resumes_from_its_state(tmp_path: Path) -> None:
    """Killed while its clock advances: identifiers, keys, usage and the remaining advance are kept."""
    db = tmp_path / "double.db"
    with process(db) as (child, address), ControlClient(address, CONTROL_KEY) as control:
        lab = Lab(address, control)
        clock, meter = lab.clock(START), lab.meter()
        customer = lab.customer(clock)
        subscriptions = [lab.subscribe(customer, lab.price(meter)) for _ in range(20)]
        lab.send(meter, customer, 5, at=START, identifier="kept", key="kept")
        lab.api.v1.test_helpers.test_clocks.advance(clock, {"frozen_time": END + 7_200})
        child.kill()
        child.wait()
    with process(db) as (_, address), ControlClient(address, CONTROL_KEY) as control:
        lab = Lab(address, control)
        replayed = lab.send(meter, customer, 5, at=START, identifier="kept", key="kept")
        assert replayed.last_response is not None
        assert replayed.last_response.headers["Idempotent-Replayed"] == "true"
        with pytest.raises(stripe.InvalidRequestError, match="already exists"):
            lab.send(meter, customer, 5, at=START, identifier="kept")
        for _ in range(1_000):
            if lab.api.v1.test_helpers.test_clocks.retrieve(clock).status == "ready":
                break
        found = [lab.invoice(subscription.id) for subscription in subscriptions]
        assert {(invoice.status, invoice.total) for invoice in found} == {("open", 5)}


@pytest.mark.req("T8.3")
def test_reset_forgets_everything(tmp_path: Path) -> None:
    with process(tmp_path / "double.db") as (_, address), ControlClient(address, CONTROL_KEY) as control:
        lab = Lab(address, control)
        lab.send(lab.meter(), customer := lab.customer(), identifier="forgotten", key="forgotten")
        control.add_fault("/v1/customers", "error_500")
        control.freeze(0)
        control.reset()
        state = control.state()
        assert (state["objects"], state["meter_events"], control.faults()) == ({}, {}, [])
        assert state["now_ms"] > END
        lab.send(lab.meter(), lab.customer(), identifier="forgotten", key="forgotten")
        assert control.meter_events(customer) == []


@pytest.mark.req("S6", "S10")
async def test_asynchronous_calls_of_the_library_work(lab: Lab) -> None:
    """Many concurrent calls: each event counts once, also if it is sent twice."""
    http = stripe.HTTPXClient()
    api = stripe.StripeClient(
        "sk_test_lab", base_addresses={"api": lab.address}, max_network_retries=0, http_client=http
    )
    meter, customer = lab.meter(), lab.customer(lab.clock(START))
    identifiers = [lab.name("async") for _ in range(60)]

    async def send(identifier: str) -> bool:
        payload = {"stripe_customer_id": customer, "value": "2"}
        try:
            await api.v1.billing.meter_events.create_async(
                {"event_name": meter.event_name, "identifier": identifier, "payload": payload}
            )
        except stripe.InvalidRequestError:
            return False
        return True

    accepted = await asyncio.gather(*(send(identifier) for identifier in identifiers * 2))
    assert sum(accepted) == len(identifiers)
    listed = await api.v1.billing.meters.event_summaries.list_async(
        meter.id, {"customer": customer, "start_time": START - 60, "end_time": START + 60}
    )
    assert [summary.aggregated_value for summary in listed.data] == [2 * len(identifiers)]
    await http.close_async()  # type: ignore[no-untyped-call]
