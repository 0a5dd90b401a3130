"""What one replica holds of the buckets that all replicas share, and when it asks for more.

A lease is a block of events that was taken from a tenant's bucket beforehand, so that most calls are
decided from memory. Whatever happens, a replica holds no more than a block of a tenant: that is how much
more than its limit a tenant may report at worst, for each replica there is.

Moments are seconds of a clock that only this process reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from meterline_ingest.rate_limits.rules.limits import BLOCKS_A_SECOND, MILLIONTHS, Limits

# What is not used by then goes back, to be used where the tenant's calls arrive now.
LEASE_SECONDS: Final = 1.0
# What is in use is made to last longer so often, for all tenants in one exchange: else the first call of each
# tenant would wait for one of its own in every second.
RENEW_SECONDS: Final = LEASE_SECONDS / 2
# A bucket that was short is asked again no sooner.
PAUSE_SECONDS: Final = 1 / BLOCKS_A_SECOND


@dataclass(frozen=True, slots=True)
class Ask:
    """
    need: what the first call that waits lacks. It is given in whole if the bucket holds anything at all,
        and what was not there is owed: so a call of any size gets in, whatever the burst
    ahead: what would be good to have as well, given from what is there
    back: what was taken before and is not used
    limits: those by which all of it was taken and is asked for
    """

    tenant_id: int
    need: int
    ahead: int
    back: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class Grant:
    """`tokens` were given; then `level`, in millionths of an event, was left, or owed when negative."""

    tokens: int
    level: int
    events_per_second: int

    @property
    def wait(self) -> float:
        """Seconds until the bucket holds an event."""
        return max(0, MILLIONTHS - self.level) / self.events_per_second / MILLIONTHS


class Lease:
    """One tenant's. `tokens` may be used until `expires`."""

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
        """Other limits may have filled the bucket. What was taken from it by the earlier ones is void: it may
        be more than these give."""
        if limits != self.limits:
            self.limits = limits
            self.short_until = 0.0
            self.drop()

    def take(self, events: int, now: float) -> bool:
        """Whether the lease held so many, and gave them."""
        if events > self.tokens or now >= self.expires:
            return False
        self.tokens -= events
        self._wanted |= 2 * self.tokens < self.limits.block
        self._used = True
        return True

    def renew(self, now: float) -> None:
        """To be called every RENEW_SECONDS: asks for more before the lease ends, if it was used lately."""
        self._wanted |= self._used and now + RENEW_SECONDS >= self.expires
        self._used = False

    def give(self, events: int) -> None:
        """Takes in what a call did not use after all; no more is kept than a block."""
        self.tokens += events
        surplus = max(0, self.tokens - self.limits.block)
        self.tokens -= surplus
        self._back += surplus

    def drop(self) -> None:
        """Nothing is held any more, and nothing goes back."""
        self.tokens = self._back = 0

    def settle(self, now: float) -> None:
        """Sets apart for the bucket what was not used in time."""
        if now >= self.expires:
            self._back += self.tokens
            self.tokens = 0

    def refuses(self, now: float) -> float:
        """Seconds for which the bucket is known to hold nothing more; 0: it must be asked."""
        return max(0.0, self.short_until - now)

    @property
    def due(self) -> bool:
        """Whether there is something to exchange with the bucket, without calls that wait."""
        return self._wanted or self._back > 0

    @property
    def idle(self) -> bool:
        """Whether nothing is held here, so that it can be forgotten."""
        return not self.tokens and not self._back

    def ask(self, waiting: Sequence[int], now: float) -> Ask | None:
        """What to exchange with the bucket for calls that wait, by their events; None: nothing."""
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
        """Takes in what was asked for; what was by other limits than there are now is void."""
        if ask.limits != self.limits:
            return
        self.tokens += grant.tokens
        self.expires = now + LEASE_SECONDS
        if grant.tokens < ask.need + ask.ahead:
            self.short_until = now + max(grant.wait, PAUSE_SECONDS)
