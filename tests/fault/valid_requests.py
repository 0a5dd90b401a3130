"""Valid requests of every RPC: they name existing objects, and all but a few succeed.

`mutations.py` mutates them, so that each mutation is processed up to its wrong part.
"""

from __future__ import annotations

import base64
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from meterline_protos.ingest.v1 import capture_pb2, corrections_pb2

from tests.fault.foreign_requests import Rpc
from tests.fault.request_world import OWN_TYPE, SPENT, TENANT, WHO, World
from tests.support.capture import Sample, columns, rows

# Services with RPCs for their own dead letters.
OPERATIONS: Final = ("ingest", "aggregate", "publisher")
# Valid requests that may be refused in the state that earlier requests leave.
REFUSABLE: Final = {
    "identity.v1.CredentialsService/RotateSigningKey": {"FAILED_PRECONDITION"},
    "publisher.v1.PublicationsService/PublishUsage": {"ABORTED"},
    "ingest.v1.EventTypesService/ArchiveEventType": {"NOT_FOUND"},
    "ingest.v1.EventTypesService/RestoreEventType": {"NOT_FOUND"},
    "ingest.v1.EventTypesService/DeleteEventType": {"NOT_FOUND", "FAILED_PRECONDITION"},
}


def requests(world: World, rpcs: list[Rpc]) -> dict[str, list[Message]]:
    """Requests by name of the RPC; created at each call, since some have unique ids."""
    now = datetime.now(UTC)
    tables = (_capture(world), _ingest(world, now), _upkeep(world, now), _corrections(world, now))
    more = (_aggregate(world, now), _identity(world), _publisher(world, now), _operations(world))
    plain: dict[str, list[Mapping[str, Any] | Message]] = {}
    for table in (*tables, *more):
        plain |= table
    known = {rpc.name: rpc for rpc in rpcs}
    assert plain.keys() == known.keys(), plain.keys() ^ known.keys()
    return {
        name: [
            each if isinstance(each, Message) else ParseDict(dict(each), known[name].request())
            for each in found
        ]
        for name, found in plain.items()
    }


Table = dict[str, list[Mapping[str, Any] | Message]]


def _span(now: datetime) -> dict[str, str]:
    """A recent time range that contains all reported events."""
    return {"start_time": _text(now - timedelta(days=40)), "end_time": _text(now + timedelta(days=1))}


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _fresh() -> str:
    return str(uuid.uuid4())


def _capture(world: World) -> Table:
    samples = [Sample(), Sample(subject="", dimensions={}), Sample(id=f"order-{_fresh()}")]
    by_rows = rows(*samples, tenant_id=TENANT, source="fuzz")
    by_columns = columns(*(Sample() for _ in range(3)), tenant_id=TENANT, source="fuzz")
    by_columns.sent_at.FromSeconds(int(time.time()))
    own = rows(Sample(subject="subject"), tenant_id="", source="")
    one = capture_pb2.StreamRequest(tenant_id=TENANT, source="fuzz", event=Sample().to_row())
    return {
        "ingest.v1.CaptureService/Report": [by_rows, by_columns],
        "ingest.v1.CaptureService/Stream": [one],
        "ingest.v1.CaptureService/ReportSigned": [world.client.request(own)],
    }


DEFINITION: Final = {
    "name": OWN_TYPE,
    "quantities": [{"name": "own.seconds", "scale": 6, "minimum": "0", "maximum": "1000"}],
    "dimensions": [{"name": "region", "values": ["eu", "us"], "max_length": 9}, {"name": "kind"}],
    "properties": [
        {"name": "p", "kind": "PROPERTY_KIND_DECIMAL", "minimum": "-1.5", "maximum": "2.5"},
        {"name": "s", "kind": "PROPERTY_KIND_TEXT", "values": ["a"], "max_length": 9, "sensitive": True},
    ],
    "enrichments": [
        {
            "namespace": "products",
            "key": "region",
            "attributes": [{"attribute": "title", "target": "kind"}],
            "when_missing": "MISSING_ENTRY_ACCEPT",
        }
    ],
    "timer": {
        "quantity": "own.seconds",
        "abandoned_after_seconds": 60,
        "when_abandoned": "ABANDONED_TIMER_DISCARD",
    },
}


def _ingest(world: World, now: datetime) -> Table:
    of = {"tenant_id": TENANT}
    span, page = _span(now), {"page_size": 2}
    entry = {"namespace": "products", "key": "k", "attributes": {"title": "t"}}
    long_ago = {"start_time": "2020-01-01T00:00:00Z", "end_time": "2020-02-01T00:00:00Z"}
    asking = {"unseal": dict(WHO)}
    service = "ingest.v1."
    return {
        f"{service}AuditService/ListAuditEntries": [of | page | {"time": span}, of | {"action": "x"}],
        f"{service}CatalogueService/PutEntries": [of | {"entries": [entry, entry | {"key": "l"}]}],
        f"{service}CatalogueService/GetEntry": [of | {"namespace": "products", "key": "k"}],
        f"{service}CatalogueService/ListEntries": [of | page | {"namespace": "products"}],
        f"{service}CatalogueService/DeleteEntries": [of | {"namespace": "products", "keys": ["l"]}],
        f"{service}EventTypesService/PutEventType": [of | {"event_type": DEFINITION, "changed_by": "ann"}],
        f"{service}EventTypesService/ArchiveEventType": [
            of | {"name": DEFINITION["name"], "changed_by": "ann"}
        ],
        f"{service}EventTypesService/RestoreEventType": [
            of | {"name": DEFINITION["name"], "changed_by": "ann"}
        ],
        f"{service}EventTypesService/DeleteEventType": [
            of | {"name": DEFINITION["name"], "changed_by": "ann"}
        ],
        f"{service}EventTypesService/ListEventTypes": [of],
        f"{service}EventTypesService/ListEventTypeVersions": [of | {"name": world.own_type}],
        f"{service}EventTypesService/DescribeEventType": [{"name": world.own_type}],
        f"{service}EventsService/GetEvent": [of | {"event_id": world.event_id} | asking],
        f"{service}EventsService/ListEvents": [
            of | page | {"time": span, "type": "api.request", "dimensions": {"region": "eu"}},
            of | page | asking | {"batch_ids": [world.batch_id]},
        ],
        f"{service}EventsService/ExportEvents": [of | {"time": span, "subject": "u1"}],
        f"{service}EventsService/GetBatches": [of | {"batch_ids": [world.batch_id]}],
        f"{service}EventsService/GetTotals": [of],
        f"{service}EventsService/Replay": [
            of | {"event_ids": [world.event_id]},
            of | {"batch_ids": [world.batch_id]},
            {"range": long_ago},
        ],
    }


def _upkeep(world: World, now: datetime) -> Table:
    of, page = {"tenant_id": TENANT}, {"page_size": 2}
    timer = {"source": "fuzz", "type": world.own_type}
    filtered = {"reason": "R", "event_type": "api.request", "stage": "QUARANTINE_STAGE_VALIDATE"}
    service = "ingest.v1."
    return {
        f"{service}LimitsService/PutPlanLimits": [
            {"plan": "fuzzed", "limits": {"events_per_second": 9, "burst": 9, "weight": 2}, "changed_by": "a"}
        ],
        f"{service}LimitsService/ListPlanLimits": [{}],
        f"{service}LimitsService/PutTenantLimits": [
            {"tenant_id": SPENT, "limits": {"events_per_second": 9}, "changed_by": "ann"}
        ],
        f"{service}LimitsService/DeleteTenantLimits": [{"tenant_id": SPENT, "changed_by": "ann"}],
        f"{service}LimitsService/GetTenantLimits": [of],
        f"{service}PrivacyService/RotateTenantKey": [of | WHO],
        f"{service}PrivacyService/ListDataKeys": [of],
        f"{service}PrivacyService/ShredTenant": [WHO | {"tenant_id": SPENT}],
        f"{service}QuarantineService/ListQuarantined": [
            of | page | {"filter": filtered | {"received": _span(now)}, "state": "QUARANTINE_STATE_WAITING"}
        ],
        f"{service}QuarantineService/GetQuarantined": [
            of | WHO | {"quarantine_id": world.quarantine_id, "unseal": True}
        ],
        f"{service}QuarantineService/ReplayQuarantined": [
            of | WHO | {"ids": {"quarantine_ids": [world.quarantine_id]}, "dry_run": True},
            of | WHO | {"filter": filtered},
        ],
        f"{service}QuarantineService/DiscardQuarantined": [of | WHO | {"filter": filtered}],
        f"{service}RetentionService/PutLegalHold": [of | WHO | {"name": world.hold}],
        f"{service}RetentionService/ReleaseLegalHold": [of | WHO | {"name": world.hold}],
        f"{service}RetentionService/ListLegalHolds": [of | {"released": True}],
        f"{service}TimersService/StartTimer": [
            of | timer | {"timer_id": _fresh(), "subject": "u", "started_at": _text(now)}
        ],
        f"{service}TimersService/HeartbeatTimer": [of | {"timer_id": world.timer_id}],
        f"{service}TimersService/StopTimer": [
            of | {"timer_id": world.timer_id, "stopped_at": _text(now + timedelta(seconds=9))}
        ],
        f"{service}TimersService/GetTimer": [of | {"timer_id": world.timer_id}],
        f"{service}TimersService/ListTimers": [of | page | {"type": world.own_type, "state": 1}],
    }


def _corrections(world: World, now: datetime) -> Table:
    of = {"tenant_id": TENANT}
    changes = {
        "time": _text(now - timedelta(hours=1)),
        "subject": "other",
        "dimensions": {"region": "us"},
        "quantities": {"units": "12.0"},
    }
    whole = of | WHO | {"import_id": _fresh(), "source": "fuzz"}
    by_columns = corrections_pb2.ImportEventsRequest(
        tenant_id=TENANT,
        source="fuzz",
        import_id=_fresh(),
        columns=columns(*(Sample() for _ in range(3)), tenant_id=TENANT).columns,
        requested_by=WHO["requested_by"],
        reason=WHO["reason"],
    )
    event = {
        "id": _fresh(),
        "type": "api.request",
        "time": _text(now - timedelta(days=60)),
        "dimensions": {"region": "eu"},
        "quantities": {"units": "3"},
    }
    service = "ingest.v1.CorrectionsService/"
    return {
        f"{service}AmendEvent": [
            of | WHO | {"event_id": world.event_id, "changes": changes},
            of | WHO | {"event_id": world.event_id, "changes": changes, "dry_run": True},
            of | WHO | {"event_id": world.event_id, "changes": {"removed": ["dimensions.region"]}},
        ],
        f"{service}RetractEvent": [
            of | WHO | {"event_id": world.event_id, "dry_run": True, "correction_id": _fresh()}
        ],
        f"{service}CorrectEvents": [
            of | WHO | {"ids": {"event_ids": [world.event_id]}, "amend": changes},
            of | WHO | {"filter": {"time": _span(now), "subject": "nobody"}, "retract": {}, "dry_run": True},
        ],
        f"{service}ImportEvents": [
            whole | {"rows": {"events": [event]}},
            whole | {"rows": {"events": [event | {"id": _fresh()}]}, "dry_run": True},
            by_columns,
        ],
        f"{service}ListCorrections": [
            of | {"page_size": 1, "time": _span(now)},
            of | {"event_id": world.event_id},
            of | {"correction_id": world.correction_id},
        ],
        f"{service}ListImports": [of | {"page_size": 1}],
    }


def _aggregate(world: World, now: datetime) -> Table:
    of = {"tenant_id": TENANT, "meter": "units", "range": _span(now)}
    # Of a type that no other load reports, so that its changes affect no one else.
    meter = {
        "name": "fuzzed-meter",
        "event_type": OWN_TYPE,
        "aggregation": "AGGREGATION_SUM",
        "quantity": "own.seconds",
        "group_by": ["region"],
        "filter": {"region": "eu"},
    }
    events = base64.b64encode(world.accepted).decode()
    service = "aggregate.v1."
    return {
        f"{service}MetersService/CreateMeter": [{"meter": meter}],
        f"{service}MetersService/DeleteMeter": [{"name": "fuzzed-meter"}],
        f"{service}MetersService/ReferToMeter": [{"name": "units"}],
        f"{service}MetersService/ListMeters": [{}, {"tenant_id": TENANT}],
        f"{service}ReconciliationService/Compare": [{"tenant_id": TENANT}],
        f"{service}UsageService/QueryUsage": [
            of | {"grain": "GRAIN_HOUR", "page_size": 1},
            of | {"grain": "GRAIN_MONTH", "by_group": True, "page_size": 1},
        ],
        f"{service}UsageService/ListContributions": [of | {"page_size": 1}],
        f"{service}UsageService/FindContributions": [{"tenant_id": TENANT, "batch_id": world.batch_id}],
        f"{service}UsageService/PreviewChanges": [{"tenant_id": TENANT, "events": events}],
    }


def _identity(world: World) -> Table:
    of, spent = {"tenant_id": TENANT}, {"tenant_id": SPENT}
    onboarding = {
        "display_name": "Fuzzed",
        "time_zone": "Europe/Berlin",
        "currency": "EUR",
        "plan": "",
        "external_customer_id": "cus_fuzzed",
        "external_subscription_id": "sub_fuzzed",
        "close_lead_seconds": 60,
    }
    keys, tenants = "identity.v1.CredentialsService/", "identity.v1.TenantsService/"
    return {
        f"{keys}CreateApiKey": [of | {"name": "a key", "permissions": ["read"]}],
        f"{keys}ListApiKeys": [of | {"page_size": 1}],
        f"{keys}RevokeApiKey": [spent | {"key_id": world.api_key_id}],
        f"{keys}VerifyApiKey": [
            {"key_id": world.api_key_id, "secret_digest": base64.b64encode(bytes(32)).decode()}
        ],
        f"{keys}RotateSigningKey": [spent | {"grace_seconds": 60}],
        f"{keys}ListSigningKeys": [of],
        f"{keys}RevokeSigningKey": [spent | {"key_id": world.spent_signing_key_id}],
        f"{keys}GetSigningKeys": [of | {"key_ids": [world.signing_key_id]}],
        f"{keys}IssueCaptureConfig": [
            of | {"actor": "a", "types": ["api.request"], "source": "s", "lifetime_seconds": 60}
        ],
        f"{tenants}OnboardTenant": [onboarding | {"tenant_id": "fuzzed-too"}],
        f"{tenants}GetTenant": [of],
        f"{tenants}BatchGetTenants": [{"tenant_ids": [TENANT, SPENT, "nobody"]}],
        f"{tenants}ListTenants": [{"page_size": 1}],
        f"{tenants}UpdateTenant": [spent | {"display_name": "Spent", "close_lead_seconds": 90}],
    }


def _publisher(world: World, now: datetime) -> Table:
    of = {"tenant_id": TENANT}
    at = {"at": _text(now)}
    price = {
        "plan": "fuzzed",
        "meter": "units",
        "version": 1,
        "effective_from": "2025-01-01T00:00:00Z",
        "body": {
            "model": "graduated",
            "currency": "USD",
            "tiers": [{"up_to": "10", "unit": "0.5"}, {"up_to": None, "unit": "0.25", "flat": "1"}],
        },
        "description": "d",
        "billing_event_name": "units",
        "billing_scale": 2,
    }
    invoices, ledger = "publisher.v1.InvoicesService/", "publisher.v1.PublicationsService/"
    return {
        f"{invoices}PreviewInvoice": [of | at | {"changes": [{"meter": "units", "delta": "-1.5"}]}],
        f"{invoices}GetInvoice": [of | {"invoice_id": world.invoice_id}],
        f"{invoices}ListInvoices": [of | {"page_size": 1}],
        f"{invoices}ListBillingGaps": [of | {"page_size": 1}, {"page_size": 1}],
        f"{invoices}ExplainInvoiceLine": [of | {"line_id": world.line_id, "page_size": 1}],
        f"{invoices}ExplainEvent": [of | {"event_id": world.event_id}],
        "publisher.v1.PricesService/PutPrice": [{"price": price}],
        "publisher.v1.PricesService/ListPrices": [{"plan": "fuzzed"}, {"tenant_id": TENANT}],
        "publisher.v1.PricesService/WithdrawPrice": [{"plan": "fuzzed", "meter": "units", "version": 1}],
        "publisher.v1.PricesService/ArchivePlan": [{"plan": "basic"}],
        "publisher.v1.PricesService/RestorePlan": [{"plan": "basic"}],
        "publisher.v1.PricesService/PutDelivery": [
            {
                "delivery": {
                    "plan": "fuzzed",
                    "meter": "units",
                    "version": 1,
                    "billing_event_name": "units",
                    "billing_scale": 2,
                }
            }
        ],
        "publisher.v1.PricesService/ListDeliveries": [{"plan": "fuzzed"}],
        f"{ledger}PublishUsage": [of | at],
        f"{ledger}ListPublications": [of | {"page_size": 1}],
        f"{ledger}ReconcilePeriod": [of | at],
    }


def _operations(world: World) -> Table:
    service = "operations.v1.DeadLettersService/"
    span = {"start_time": "2020-01-01T00:00:00Z", "end_time": "2040-01-01T00:00:00Z"}
    return {
        f"{service}ListDeadLetters": [
            {"filter": {"error_prefix": "x", "received": span}, "states": [1, 2], "page_size": 1},
            {"include_payload": True},
        ],
        f"{service}RedriveDeadLetters": [
            WHO | {"message_ids": [world.message_id], "dry_run": True},
            WHO | {"filter": {"error_prefix": "x"}, "limit": 1},
        ],
    }
