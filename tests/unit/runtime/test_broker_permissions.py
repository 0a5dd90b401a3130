"""The broker permissions of services are derived from the table of facts."""

from __future__ import annotations

import pytest
from google.protobuf.wrappers_pb2 import StringValue
from meterline.bus.permissions import (
    authorization,
    configuration,
    password_variable,
    permissions_of,
    services,
)
from meterline.bus.subjects import FACTS, Fact, facts_of

pytestmark = pytest.mark.req("K2", "T4.1")

ALERTS = Fact("alerts.fired.>", "ALERTS", "aggregate", ("notifier",), StringValue)


def test_service_may_publish_only_its_own_facts() -> None:
    for service in services():
        granted = set(permissions_of(service).publish)
        own = {fact.subject for fact in FACTS if fact.publisher == service}
        assert {subject for subject in granted if not subject.startswith("$JS.")} == own


def test_service_may_use_only_its_own_consumers() -> None:
    assert permissions_of("publisher").publish == (
        "$JS.API.STREAM.INFO.TENANTS",
        "$JS.API.STREAM.CREATE.TENANTS",
        "$JS.API.CONSUMER.DURABLE.CREATE.TENANTS.publisher-tenants",
        "$JS.API.CONSUMER.MSG.NEXT.TENANTS.publisher-tenants",
        "$JS.ACK.TENANTS.publisher-tenants.>",
        "$JS.API.STREAM.INFO.USAGE",
        "$JS.API.STREAM.CREATE.USAGE",
        "$JS.API.CONSUMER.DURABLE.CREATE.USAGE.publisher-usage",
        "$JS.API.CONSUMER.MSG.NEXT.USAGE.publisher-usage",
        "$JS.ACK.USAGE.publisher-usage.>",
        "$JS.API.STREAM.INFO.INVOICES",
        "$JS.API.STREAM.CREATE.INVOICES",
        "invoices.changed",
    )


def test_service_reads_only_its_own_inbox() -> None:
    assert [permissions_of(service).subscribe for service in services()] == [
        (f"_INBOX.{service}.>",) for service in services()
    ]


def test_new_fact_changes_permissions_of_its_publisher_and_consumers() -> None:
    facts = (*FACTS, ALERTS)
    assert services(facts) == sorted([*services(), "notifier"])
    assert set(permissions_of("aggregate", facts).publish) - set(permissions_of("aggregate").publish) == {
        "alerts.fired.>",
        "$JS.API.STREAM.INFO.ALERTS",
        "$JS.API.STREAM.CREATE.ALERTS",
    }
    assert set(permissions_of("notifier", facts).publish) == {
        "$JS.API.STREAM.INFO.ALERTS",
        "$JS.API.STREAM.CREATE.ALERTS",
        "$JS.API.CONSUMER.DURABLE.CREATE.ALERTS.notifier-alerts",
        "$JS.API.CONSUMER.MSG.NEXT.ALERTS.notifier-alerts",
        "$JS.ACK.ALERTS.notifier-alerts.>",
    }
    for service in ("identity", "ingest", "publisher"):
        assert permissions_of(service, facts) == permissions_of(service)
    assert "alerts.fired.>" in configuration(facts)


def test_service_without_facts_may_publish_nothing() -> None:
    assert facts_of("stranger") == ()
    assert permissions_of("stranger").publish == ()


def test_every_service_needs_a_password() -> None:
    passwords = {service: f"secret-of-{service}" for service in services()}
    users = authorization(passwords)["users"]
    assert {user["user"]: user["password"] for user in users} == passwords
    del passwords["ingest"]
    with pytest.raises(KeyError, match="ingest"):
        authorization(passwords)


def test_printed_configuration_has_variables_instead_of_passwords() -> None:
    text = configuration()
    for service in services():
        assert f'"password": ${password_variable(service)},\n' in text
    # A quoted subject with a dollar sign is no variable.
    assert '"$JS.API.STREAM.INFO.EVENTS"' in text
