"""The settings of one double."""

from dataclasses import dataclass, field

MAX_FINALIZE_AFTER = 72 * 3600


@dataclass(frozen=True, slots=True)
class DoubleSettings:
    """`finalize_after`: seconds from an invoice's draft to its finalisation, on its clock (0 to 72 h).

    `control_key`: the key that calls of `/_double` need; empty: the double refuses them all.

    The rest is about real time: `error_report_delay` gathers asynchronous errors of meter events into one
    report; a webhook is tried `webhook_attempts` times, `webhook_backoff` seconds doubling between them;
    at most `webhook_backlog` deliveries wait, later ones are dropped and counted.
    """

    finalize_after: int = 3_600
    error_report_delay: float = 0.1
    webhook_attempts: int = 6
    webhook_backoff: float = 0.5
    webhook_timeout: float = 5.0
    webhook_backlog: int = 10_000
    control_key: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.finalize_after <= MAX_FINALIZE_AFTER:
            raise ValueError(f"finalize_after must be between 0 and {MAX_FINALIZE_AFTER} seconds")
        if self.webhook_attempts < 1 or self.webhook_backlog < 1:
            raise ValueError("webhook_attempts and webhook_backlog must be positive")
