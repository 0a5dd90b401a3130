"""Every event counts once, whatever the server answers, with and without a spool and a restart."""

import grpc
import pytest
from grpc import StatusCode
from hypothesis import given, settings
from hypothesis import strategies as st
from meterline_client.events import OutcomeKind
from meterline_client.retry import Failure
from meterline_client.transport import Answer
from meterline_client.window import Parcel

from tests.support.client import Core

DOWN = Failure(StatusCode.UNAVAILABLE, "connection refused")

failures = st.sampled_from(
    [
        None,
        *(Failure(code, "scripted") for code in grpc.StatusCode if code is not StatusCode.OK),
        Failure(StatusCode.RESOURCE_EXHAUSTED, "scripted", retry_after=0.7),
        "lost",
    ]
)


@pytest.mark.req("T1.1", "T1.3", "T7.2", "T7.3")
@settings(max_examples=150, deadline=None)
@given(
    script=st.lists(failures, max_size=60),
    loads=st.lists(st.tuples(st.integers(0, 40), st.floats(0, 8)), min_size=1, max_size=8),
    spool=st.booleans(),
    restart=st.integers(0, 8),
)
def test_every_event_counts_once_under_any_server_behaviour(
    tmp_path_factory: pytest.TempPathFactory,
    script: list[Failure | str | None],
    loads: list[tuple[int, float]],
    spool: bool,
    restart: int,
) -> None:
    directory = tmp_path_factory.mktemp("spool") if spool else None
    core = Core(spool_dir=directory, max_events=60, max_spool_bytes=5_000)
    capture, left, settled_before = core.capture, list(script), 0

    def answer(parcel: Parcel) -> Answer:
        said = left.pop(0) if left else None
        if isinstance(said, Failure):
            return said
        response = capture.report(parcel.batch.payload)
        return DOWN if said == "lost" else response

    core.answer = answer
    recorded: list[str] = []
    reported: list[str] = []
    for turn, (count, seconds) in enumerate(loads):
        recorded += core.record(count)
        core.run(seconds)
        assert core.total() == len(recorded) - settled_before, "every event is accepted, dropped or pending"
        if spool and turn == restart:
            core.close()
            reported += [outcome.event.id for outcome in core.outcomes]
            settled_before = len(recorded) - core.counters.spooled
            core = Core(answer, spool_dir=directory, max_events=60, max_spool_bytes=5_000)
    core.run(3_600)
    reported += [outcome.event.id for outcome in core.outcomes]

    assert core.flushed()
    assert capture.counted | set(reported) == set(recorded)
    assert len(reported) == len(set(reported))
    never = {o.event.id for o in core.outcomes if o.outcome is OutcomeKind.DROPPED}
    assert not never & capture.counted, "a dropped event must not count"
