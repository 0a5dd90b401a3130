"""A program whose processes record events and end, each in a different way.

Its arguments are the address of a capture service, a spool directory (or nothing), a start method, and
`before` or `after`: whether the client is created before or inside the process. It writes the id of each
event that must arrive, one a line. For each way to end, it checks the exit code. Only the end makes a process
send its events: the flush interval is much longer than the process runs.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.context import BaseContext

from meterline_client import Client, exit_on_sigterm

EVENTS = 50
ADDRESS, SPOOL, METHOD, MADE = sys.argv[1:5]


def new_client() -> Client:
    return Client(ADDRESS, source="test/1", tenant_id="acme", spool_dir=SPOOL or None, flush_interval=3_600)


SHARED = new_client() if MADE == "before" else None


def the_client() -> Client:
    """The client of this process, which lives until the process ends, like a global of a module."""
    global SHARED
    SHARED = SHARED or new_client()
    return SHARED


def record(expected: bool = True, count: int = EVENTS) -> None:
    ids = [the_client().record("api.called", "s") for _ in range(count)]
    if expected:
        # One write, so that lines of several processes do not mix.
        os.write(1, "".join(f"{one}\n" for one in ids).encode())


def returns() -> None:
    record()


def exits() -> None:
    record()
    sys.exit(3)


def raises() -> None:
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - closed at process exit
    record()
    raise LookupError("of the application")


def exits_at_once() -> None:
    record(expected=bool(SPOOL))
    os._exit(4)


def is_killed() -> None:
    record(expected=bool(SPOOL))
    os.kill(os.getpid(), signal.SIGKILL)


def is_terminated() -> None:
    record(expected=bool(SPOOL))
    os.kill(os.getpid(), signal.SIGTERM)


def is_terminated_and_handles_it() -> None:
    assert exit_on_sigterm()
    record()
    os.kill(os.getpid(), signal.SIGTERM)


def is_terminated_while_a_thread_records() -> None:
    assert exit_on_sigterm()
    never = threading.Event()

    def goes_on() -> None:
        threading.main_thread().join()
        record()
        os.kill(os.getpid(), signal.SIGTERM)
        never.wait(60)

    threading.Thread(target=goes_on).start()


def runs_asyncio() -> None:
    async def main() -> None:
        record()
        asyncio.get_running_loop().call_soon(record)

    asyncio.run(main())


def records_in_a_thread_until_the_end() -> None:
    def goes_on() -> None:
        record()
        # The main thread counts as finished while the interpreter waits for the other threads.
        threading.main_thread().join()
        record()

    threading.Thread(target=goes_on).start()


def leaves_work_to_an_executor() -> None:
    executor = ThreadPoolExecutor(1)
    executor.submit(record)
    executor.submit(record)


def closes_in_a_thread() -> None:
    record()
    threading.Thread(target=the_client().close).start()


def forks_once_more() -> None:
    record()
    child = os.fork()
    record()
    if child:
        assert os.waitpid(child, 0)[1] == 0


# The allowed exit codes.
ENDS: dict[Callable[[], None], set[int]] = {
    returns: {0},
    exits: {3},
    raises: {1},
    exits_at_once: {4},
    is_killed: {-signal.SIGKILL},
    is_terminated: {-signal.SIGTERM},
    is_terminated_and_handles_it: {128 + signal.SIGTERM},
    # The code depends on whether multiprocessing or the interpreter waits for the thread.
    is_terminated_while_a_thread_records: {1, 128 + signal.SIGTERM},
    runs_asyncio: {0},
    records_in_a_thread_until_the_end: {0},
    leaves_work_to_an_executor: {0},
    closes_in_a_thread: {0},
    forks_once_more: {0},
}
# Spawned processes start slowly, and end like those of a fork server except for the last step.
SPAWNED = (returns, exits_at_once, is_terminated_and_handles_it, records_in_a_thread_until_the_end)


def task(_: int) -> int:
    record(count=10)
    return os.getpid()


def use_pools(context: BaseContext) -> None:
    if SPOOL:
        # At the end of its block a pool terminates its processes, which have no signal handler.
        with context.Pool(2) as pool:
            pool.map(task, range(4))
    # Each process ends after one task, as in Celery.
    with context.Pool(2, maxtasksperchild=1) as pool:
        assert len(set(pool.map(task, range(4), chunksize=1))) == 4
        pool.close()
        pool.join()


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    context = multiprocessing.get_context(METHOD)
    if METHOD == "forkserver":
        context.set_forkserver_preload(["meterline_client"])
    if SHARED:
        record(count=5)
    ends = SPAWNED if METHOD == "spawn" else ENDS
    processes = {end: context.Process(target=end) for end in ends}  # type: ignore[attr-defined]
    for process in processes.values():
        process.start()
    if METHOD != "spawn":
        use_pools(context)
    with ProcessPoolExecutor(2, context) as executor:
        list(executor.map(task, range(4)))
    for end, process in processes.items():
        process.join()
        assert process.exitcode in ENDS[end], (end.__name__, process.exitcode)
    # This process sends the events in the spool and its own.
    record(count=5)
    assert the_client().flush(30)
    record(count=5)


if __name__ == "__main__":
    main()
