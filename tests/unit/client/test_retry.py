"""The retry decision for each gRPC status, and the delay before the next attempt."""

import random

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_client.retry import MAX_RETRY_AFTER_SECONDS, Backoff, Failure, Verdict, judge

BACKOFF = Backoff(base=0.1, longest=30.0)

VERDICTS = {
    "CANCELLED": Verdict.LATER,
    "UNKNOWN": Verdict.DOUBTFUL,
    "INVALID_ARGUMENT": Verdict.NEVER,
    "DEADLINE_EXCEEDED": Verdict.LATER,
    "NOT_FOUND": Verdict.DOUBTFUL,
    "ALREADY_EXISTS": Verdict.DOUBTFUL,
    "PERMISSION_DENIED": Verdict.LATER,
    "UNAUTHENTICATED": Verdict.LATER,
    "RESOURCE_EXHAUSTED": Verdict.SMALLER,
    "FAILED_PRECONDITION": Verdict.DOUBTFUL,
    "ABORTED": Verdict.LATER,
    "UNIMPLEMENTED": Verdict.LATER,
    "INTERNAL": Verdict.DOUBTFUL,
    "UNAVAILABLE": Verdict.LATER,
    "DATA_LOSS": Verdict.DOUBTFUL,
    "OUT_OF_RANGE": Verdict.NEVER,
}


@pytest.mark.req("T1.1")
@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_status_decides_the_verdict(code: grpc.StatusCode) -> None:
    assert judge(Failure(code)) is VERDICTS[code.name]


@pytest.mark.req("T1.1", "T2.4")
def test_status_with_retry_delay_means_overload() -> None:
    assert judge(Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, retry_after=0.0)) is Verdict.LATER


@pytest.mark.req("T1.1")
def test_delay_ceiling_doubles_up_to_the_maximum() -> None:
    ceilings = [BACKOFF.ceiling(attempts) for attempts in range(1, 12)]

    assert ceilings == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]
    assert BACKOFF.ceiling(10**9) == 30.0


@pytest.mark.req("T1.1")
@settings(deadline=None)
@given(st.integers(1, 10_000), st.one_of(st.none(), st.floats(0, 1e9)), st.integers())
def test_delay_lies_between_requested_pause_and_ceiling(
    attempts: int, retry_after: float | None, seed: int
) -> None:
    asked = min(retry_after or 0.0, MAX_RETRY_AFTER_SECONDS)

    delay = BACKOFF.delay(attempts, retry_after, random.Random(seed))

    assert asked <= delay <= asked + BACKOFF.ceiling(attempts)


@pytest.mark.req("T1.1")
def test_the_jitter_is_full() -> None:
    rng = random.Random(1)
    delays = [BACKOFF.delay(5, None, rng) for _ in range(2_000)]

    # Uniform from zero to the ceiling of 1.6 s: each tenth gets about a tenth of the delays.
    shares = [sum(low <= delay / 0.16 < low + 1 for delay in delays) for low in range(10)]
    assert min(shares) > 140


@pytest.mark.req("T1.1")
@pytest.mark.parametrize("retry_after", [-5.0, 0.0])
def test_negative_requested_pause_counts_as_zero(retry_after: float) -> None:
    assert BACKOFF.delay(1, retry_after, random.Random(1)) >= 0
