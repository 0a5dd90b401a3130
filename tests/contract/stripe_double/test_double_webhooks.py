"""Webhooks: signatures that the library verifies, retries, and a bounded backlog."""

import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import stripe
from meterline_dev.stripe_double import ControlClient, DoubleSettings, running_double

from tests.contract.stripe_double.lab import CONTROL_KEY, Lab, instant

START, END = instant("2026-03-01T00:00:00"), instant("2026-04-01T00:00:00")
HOUR = 3_600
WAIT = 10.0


class Receiver:
    """An endpoint that stores its deliveries, and answers the given statuses, then 200."""

    def __init__(self) -> None:
        self.received: queue.Queue[tuple[str, str]] = queue.Queue()
        self.statuses: queue.SimpleQueue[int] = queue.SimpleQueue()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                status = 200 if receiver.statuses.empty() else receiver.statuses.get()
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
                receiver.received.put((body, self.headers["Stripe-Signature"]))

            def log_message(self, *_: Any) -> None:
                """Keep the test's output clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"

    def next(self) -> tuple[str, str]:
        """Body and signature of the next delivery."""
        return self.received.get(timeout=WAIT)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    thread = threading.Thread(target=found.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.server.shutdown()
    thread.join()
    found.server.server_close()


@pytest.fixture
def endpoint(lab: Lab, receiver: Receiver) -> Iterator[stripe.WebhookEndpoint]:
    found = lab.api.v1.webhook_endpoints.create(
        {
            "url": receiver.url,
            "enabled_events": [
                "invoice.created",
                "invoice.finalized",
                "v1.billing.meter.error_report_triggered",  # type: ignore[list-item]
            ],
        }
    )
    yield found
    lab.api.v1.webhook_endpoints.delete(found.id)


def _subscribed(lab: Lab) -> tuple[str, stripe.Subscription]:
    clock = lab.clock(START)
    return clock, lab.subscribe(lab.customer(clock), lab.price(lab.meter()))


@pytest.mark.req("T3.5")
def test_invoice_webhooks_are_sent_for_draft_and_finalisation(
    lab: Lab, receiver: Receiver, endpoint: stripe.WebhookEndpoint
) -> None:
    clock, subscription = _subscribed(lab)
    lab.advance(clock, END)
    created = lab.api.construct_event(*receiver.next(), endpoint.secret)
    assert (created.type, created.created) == ("invoice.created", END)
    assert created.data.object.status == "draft"
    lab.advance(clock, END + HOUR)
    finalized = lab.api.construct_event(*receiver.next(), endpoint.secret)
    assert finalized.type == "invoice.finalized"
    assert finalized.data.object.to_dict() == lab.invoice(subscription.id).to_dict()
    assert lab.api.v1.events.retrieve(finalized.id).type == "invoice.finalized"


@pytest.mark.req("T3.5")
def test_changed_body_or_another_secret_does_not_verify(
    lab: Lab, receiver: Receiver, endpoint: stripe.WebhookEndpoint
) -> None:
    clock, _ = _subscribed(lab)
    lab.advance(clock, END)
    body, signature = receiver.next()
    for payload, secret in ((body + " ", endpoint.secret), (body, "whsec_other")):
        with pytest.raises(stripe.SignatureVerificationError):
            lab.api.construct_event(payload, signature, secret)


@pytest.mark.req("S6", "X3")
def test_events_of_unknown_customers_are_reported_by_their_key(
    lab: Lab, receiver: Receiver, endpoint: stripe.WebhookEndpoint
) -> None:
    """They are accepted first; then a thin event, whose data is fetched, names code and Idempotency-Key."""
    meter = lab.meter()
    sent = lab.send(meter, "cus_nobody", 5, key="the-key-of-the-event")
    assert sent.event_name == meter.event_name
    thin = lab.api.parse_event_notification(*receiver.next(), endpoint.secret)
    assert isinstance(thin, stripe.events.V1BillingMeterErrorReportTriggeredEventNotification)
    assert thin.fetch_related_object().id == meter.id
    event = thin.fetch_event()
    assert isinstance(event, stripe.events.V1BillingMeterErrorReportTriggeredEvent)
    assert event.data.reason.error_count == 1
    (kind,) = event.data.reason.error_types
    assert (kind.code, kind.error_count) == ("meter_event_customer_not_found", 1)
    assert [sample.request.identifier for sample in kind.sample_errors] == ["the-key-of-the-event"]
    (recorded,) = lab.control.meter_events("cus_nobody")
    assert (recorded["status"], recorded["error_code"]) == ("rejected", "meter_event_customer_not_found")


@pytest.mark.req("X3")
def test_report_counts_all_errors_and_samples_some(receiver: Receiver) -> None:
    """One report covers all errors within the delay."""
    settings = DoubleSettings(control_key=CONTROL_KEY, error_report_delay=1.0)
    with running_double(settings=settings) as double, ControlClient(double.address, CONTROL_KEY) as control:
        lab = Lab(double.address, control)
        events: Any = ["v1.billing.meter.error_report_triggered"]
        endpoint = lab.api.v1.webhook_endpoints.create({"url": receiver.url, "enabled_events": events})
        meter = lab.meter()
        for _ in range(13):
            lab.send(meter, "cus_none_at_all")
        event: Any = lab.api.parse_event_notification(*receiver.next(), endpoint.secret).fetch_event()
        (kind,) = event.data.reason.error_types
        assert (event.data.reason.error_count, kind.error_count, len(kind.sample_errors)) == (13, 13, 10)


@pytest.mark.req("T3.5")
def test_delivery_is_retried_until_accepted(
    lab: Lab, receiver: Receiver, endpoint: stripe.WebhookEndpoint
) -> None:
    for status in (500, 302):
        receiver.statuses.put(status)
    clock, _ = _subscribed(lab)
    lab.advance(clock, END)
    tries = [lab.api.construct_event(*receiver.next(), endpoint.secret) for _ in range(3)]
    assert len({event.id for event in tries}) == 1


@pytest.mark.req("T3.5")
def test_delivery_attempts_and_backlog_are_bounded(receiver: Receiver) -> None:
    """An endpoint that accepts nothing: two attempts, and at most one waiting delivery."""
    settings = DoubleSettings(
        control_key=CONTROL_KEY, webhook_attempts=2, webhook_backoff=0.5, webhook_backlog=1
    )
    with running_double(settings=settings) as double, ControlClient(double.address, CONTROL_KEY) as control:
        lab = Lab(double.address, control)
        lab.api.v1.webhook_endpoints.create({"url": receiver.url, "enabled_events": ["*"]})
        for _ in range(2):
            receiver.statuses.put(503)
        clock, _ = _subscribed(lab)
        # The draft's delivery waits for its second attempt, so that of the clock finds the backlog full.
        lab.advance(clock, END)
        first, again = receiver.next(), receiver.next()
        assert first[0] == again[0]
        assert _settled(control) == {"failed": 1, "dropped": 1}


@pytest.mark.req("S9")
def test_due_actions_happen_in_time_order(lab: Lab) -> None:
    """For an advance of any length."""
    clock, subscription = _subscribed(lab)
    lab.advance(clock, instant("2026-05-01T00:00:00"))
    happened = [
        (event.type, event.created)
        for event in lab.api.v1.events.list({"limit": 100}).data[::-1]
        if event.data.object.to_dict().get("customer") == subscription.customer
    ]
    assert happened == [
        ("invoice.created", END),
        ("invoice.finalized", END + HOUR),
        ("invoice.created", instant("2026-05-01T00:00:00")),
    ]


def _settled(control: ControlClient) -> dict[str, int]:
    for _ in range(1_000):
        found: dict[str, int] = control.state()["deliveries"]
        if not found.get("pending"):
            return found
    raise AssertionError("deliveries are still waiting")


@pytest.mark.req("S8")
def test_webhook_secret_is_shown_once(lab: Lab, endpoint: stripe.WebhookEndpoint) -> None:
    assert endpoint.secret is not None
    assert endpoint.secret.startswith("whsec_")
    assert "secret" not in lab.api.v1.webhook_endpoints.retrieve(endpoint.id).to_dict()
    assert all("secret" not in entry.to_dict() for entry in lab.api.v1.webhook_endpoints.list().data)


@pytest.mark.req("T3.5")
@pytest.mark.parametrize(("url", "events"), [("ftp://x", ["*"]), ("http://[", ["*"]), ("http://x", [])])
def test_invalid_endpoints_are_refused(lab: Lab, url: str, events: list[Any]) -> None:
    with pytest.raises(stripe.InvalidRequestError) as error:
        lab.api.v1.webhook_endpoints.create({"url": url, "enabled_events": events})
    assert error.value.http_status == 400
