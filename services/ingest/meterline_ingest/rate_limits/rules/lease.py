"""The tokens that one replica holds of the shared buckets, and when it requests more.

A lease is a block of events that was taken from a tenant's bucket in advance, so that most calls are decided
from memory. A replica never holds more than a block of a tenant: each replica may thus let a tenant exceed
its limit by a block at worst.

Moments are seconds of a clock that only this process reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from meterline_ingest.rate_limits.rules.limits import BLOCKS_A_SECOND, MILLIONTHS, Limits

# Unused tokens then go back to the bucket, for the replica that the tenant's calls reach now.
LEASE_SECONDS: Final = 1.0
# Used leases are renewed this often, for all tenants in one exchange: otherwise the first call of each tenant
# would wait for an exchange of its own in every second.
RENEW_SECONDS: Final = LEASE_SECONDS / 2
# Seconds before a bucket that lacked tokens is asked again.
PAUSE_SECONDS: Final = 1 / BLOCKS_A_SECOND


@dataclass(frozen=True, slots=True)
class Ask:
    """
    need: what the first waiting call lacks. It is granted in full if the bucket holds any event at all, and
        the missing rest is owed: so a call of any size is admitted, whatever the burst
    ahead: further tokens, granted only from what the bucket holds
    back: unused tokens that were taken before
    limits: the limits under which all of these were taken and are requested
    """

    tenant_id: int
    need: int
    ahead: int
    back: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class Grant:
    """`tokens` were granted; then `level`, in millionths of an event, was left, or owed when negative."""

    tokens: int
    level: int
    events_per_second: int

    @property
    def wait(self) -> float:
        """Seconds until the bucket holds an event."""
        return max(0, MILLIONTHS - self.level) / self.events_per_second / MILLIONTHS


class Lease:
    """The lease of one tenant. `tokens` may be used until `expires`."""

    __slots__ = (
        "_back",
        "_used",
        "_wanted",
        "expires",
        "limits",
        "short_until",
        "tenant_id",
        "tokens",
    )

    def __init__(self, tenant_id: int, limits: Limits) -> None:
        self.tenant_id = tenant_id
        self.limits = limits
        self.tokens = 0
        self.expires = 0.0
        self.short_until = 0.0
        self._back = 0
        self._wanted = False
        self._used = False

    def follow(self, limits: Limits) -> None:
        """Switches to other limits, which may have filled the bucket. Drops tokens taken under the earlier
        ones: they may be more than the new ones allow."""
        if limits != self.limits:
            self.limits = limits
            self.short_until = 0.0
            self.drop()

    def take(self, events: int, now: float) -> bool:
        """Whether the lease held so many tokens; if so, takes them."""
        if events > self.tokens or now >= self.expires:
            return False
        self.tokens -= events
        self._wanted |= 2 * self.tokens < self.limits.block
        self._used = True
        return True

    def renew(self, now: float) -> None:
        """To be called every RENEW_SECONDS: requests more before the lease ends, if it was used lately."""
        self._wanted |= self._used and now + RENEW_SECONDS >= self.expires
        self._used = False

    def give(self, events: int) -> None:
        """Adds tokens that a call did not use; keeps at most a block."""
        self.tokens += events
        surplus = max(0, self.tokens - self.limits.block)
        self.tokens -= surplus
        self._back += surplus

    def drop(self) -> None:
        """Drops all tokens, without giving them back."""
        self.tokens = self._back = 0

    def settle(self, now: float) -> None:
        """Sets tokens that were not used in time apart, to go back to the bucket."""
        if now >= self.expires:
            self._back += self.tokens
            self.tokens = 0

    def refuses(self, now: float) -> float:
        """Seconds for which the bucket is known to hold nothing more; 0: it must be asked."""
        return max(0.0, self.short_until - now)

    @property
    def due(self) -> bool:
        """Whether there is something to exchange with the bucket, apart from waiting calls."""
        return self._wanted or self._back > 0

    @property
    def idle(self) -> bool:
        """Whether nothing is held, so that the lease can be forgotten."""
        return not self.tokens and not self._back

    def ask(self, waiting: Sequence[int], now: float) -> Ask | None:
        """The exchange with the bucket for waiting calls, given their events; None: nothing to exchange."""
        self.settle(now)
        need = ahead = 0
        if (waiting or self._wanted) and not self.refuses(now):
            first = waiting[0] if waiting else 0
            need = max(0, first - self.tokens)
            ahead = max(0, sum(waiting[1:]) + self.limits.block - max(0, self.tokens - first))
        self._wanted = False
        if not (need or ahead or self._back):
            return None
        ask = Ask(self.tenant_id, need, ahead, self._back, self.limits)
        self._back = 0
        return ask

    def granted(self, ask: Ask, grant: Grant, now: float) -> None:
        """Adds the granted tokens, unless the limits have changed since the request."""
        if ask.limits != self.limits:
            return
        self.tokens += grant.tokens
        self.expires = now + LEASE_SECONDS
        if grant.tokens < ask.need + ask.ahead:
            self.short_until = now + max(grant.wait, PAUSE_SECONDS)
