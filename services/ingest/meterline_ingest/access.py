"""What each call demands of its caller."""

from __future__ import annotations

from typing import Final

from meterline.auth.principals import Permission
from meterline.auth.rules import (
    CONTENT_BYTES,
    EVENT_BYTES,
    EVENTS_BYTES,
    SELF_PROVING,
    Reach,
    Rule,
    Rules,
)

_CAPTURE: Final = "meterline.ingest.v1.CaptureService"
_EVENTS: Final = "meterline.ingest.v1.EventsService"
_TYPES: Final = "meterline.ingest.v1.EventTypesService"
_CATALOGUE: Final = "meterline.ingest.v1.CatalogueService"
_CORRECTIONS: Final = "meterline.ingest.v1.CorrectionsService"
_LIMITS: Final = "meterline.ingest.v1.LimitsService"
_QUARANTINE: Final = "meterline.ingest.v1.QuarantineService"
_RETENTION: Final = "meterline.ingest.v1.RetentionService"
_TIMERS: Final = "meterline.ingest.v1.TimersService"
_PRIVACY: Final = "meterline.ingest.v1.PrivacyService"
_AUDIT: Final = "meterline.ingest.v1.AuditService"

RULES: Final[Rules] = {
    f"{_CAPTURE}/Report": Rule(Permission.CAPTURE, Reach.EVENTS, max_bytes=EVENTS_BYTES),
    f"{_CAPTURE}/Stream": Rule(Permission.CAPTURE, Reach.EVENTS, max_bytes=EVENTS_BYTES),
    f"{_CAPTURE}/ReportSigned": SELF_PROVING,
    f"{_EVENTS}/GetEvent": Rule(Permission.READ),
    f"{_EVENTS}/ListEvents": Rule(Permission.READ),
    f"{_EVENTS}/ExportEvents": Rule(Permission.READ),
    f"{_EVENTS}/GetBatches": Rule(Permission.READ),
    f"{_EVENTS}/GetTotals": Rule(Permission.READ),
    f"{_EVENTS}/Replay": Rule(Permission.OPERATE, Reach.EVERYBODY),
    f"{_TYPES}/PutEventType": Rule(Permission.CONFIGURE, max_bytes=CONTENT_BYTES),
    f"{_TYPES}/ArchiveEventType": Rule(Permission.CONFIGURE),
    f"{_TYPES}/RestoreEventType": Rule(Permission.CONFIGURE),
    f"{_TYPES}/DeleteEventType": Rule(Permission.CONFIGURE),
    f"{_TYPES}/ListEventTypes": Rule(Permission.READ),
    f"{_TYPES}/ListEventTypeVersions": Rule(Permission.READ),
    f"{_TYPES}/DescribeEventType": Rule(Permission.READ, Reach.EVERYBODY),
    f"{_CATALOGUE}/PutEntries": Rule(Permission.CONFIGURE, max_bytes=CONTENT_BYTES),
    f"{_CATALOGUE}/GetEntry": Rule(Permission.READ),
    f"{_CATALOGUE}/ListEntries": Rule(Permission.READ),
    f"{_CATALOGUE}/DeleteEntries": Rule(Permission.CONFIGURE, max_bytes=CONTENT_BYTES),
    f"{_CORRECTIONS}/AmendEvent": Rule(Permission.CORRECT, judged_singly=("changes",), max_bytes=EVENT_BYTES),
    f"{_CORRECTIONS}/RetractEvent": Rule(Permission.CORRECT),
    f"{_CORRECTIONS}/CorrectEvents": Rule(
        Permission.CORRECT, judged_singly=("amend",), max_bytes=CONTENT_BYTES
    ),
    f"{_CORRECTIONS}/ImportEvents": Rule(
        Permission.BACKFILL, judged_singly=("rows", "columns"), max_bytes=EVENTS_BYTES
    ),
    f"{_CORRECTIONS}/ListCorrections": Rule(Permission.READ),
    f"{_CORRECTIONS}/ListImports": Rule(Permission.READ),
    f"{_LIMITS}/PutPlanLimits": Rule(Permission.OPERATE, Reach.EVERYBODY),
    f"{_LIMITS}/ListPlanLimits": Rule(Permission.OPERATE, Reach.EVERYBODY),
    f"{_LIMITS}/PutTenantLimits": Rule(Permission.OPERATE, Reach.EVERYBODY),
    f"{_LIMITS}/DeleteTenantLimits": Rule(Permission.OPERATE, Reach.EVERYBODY),
    f"{_LIMITS}/GetTenantLimits": Rule(Permission.READ),
    f"{_QUARANTINE}/ListQuarantined": Rule(Permission.QUARANTINE),
    f"{_QUARANTINE}/GetQuarantined": Rule(Permission.QUARANTINE),
    f"{_QUARANTINE}/ReplayQuarantined": Rule(Permission.QUARANTINE),
    f"{_QUARANTINE}/DiscardQuarantined": Rule(Permission.QUARANTINE),
    f"{_RETENTION}/PutLegalHold": Rule(Permission.OPERATE),
    f"{_RETENTION}/ReleaseLegalHold": Rule(Permission.OPERATE),
    f"{_RETENTION}/ListLegalHolds": Rule(Permission.OPERATE),
    f"{_TIMERS}/StartTimer": Rule(Permission.CAPTURE, max_bytes=EVENT_BYTES),
    f"{_TIMERS}/HeartbeatTimer": Rule(Permission.CAPTURE),
    f"{_TIMERS}/StopTimer": Rule(Permission.CAPTURE),
    f"{_TIMERS}/GetTimer": Rule(Permission.READ),
    f"{_TIMERS}/ListTimers": Rule(Permission.READ),
    f"{_PRIVACY}/RotateTenantKey": Rule(Permission.OPERATE),
    f"{_PRIVACY}/ShredTenant": Rule(Permission.OPERATE),
    f"{_PRIVACY}/ListDataKeys": Rule(Permission.OPERATE),
    f"{_AUDIT}/ListAuditEntries": Rule(Permission.OPERATE),
}
