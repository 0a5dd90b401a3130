"""Supervised child processes: readiness, early exits, restarts, and the order of stopping."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from meterline_dev import procstat
from meterline_dev.processes import ChildFailedError, ChildSpec, Supervisor
from meterline_dev.testing import eventually

pytestmark = pytest.mark.req("X4")

_READY = re.compile(r"^ready$")
_WAIT = "print('ready', flush=True); signal.pause()"


def _spec(
    place: Path,
    name: str,
    code: str,
    *,
    ready: "re.Pattern[str] | None" = _READY,
    stop_grace: float = 10.0,
    restart: bool = False,
    max_restarts: int = 2,
) -> ChildSpec:
    return ChildSpec(
        name=name,
        argv=[sys.executable, "-c", f"import os, signal, subprocess, sys\n{code}"],
        log_file=place / f"{name}.log",
        ready=ready,
        ready_timeout=10.0,
        stop_grace=stop_grace,
        restart=restart,
        max_restarts=max_restarts,
        first_backoff=0.01,
    )


async def _eventually(question: Callable[[], bool]) -> bool:
    return await asyncio.to_thread(eventually, question)


async def test_children_stop_in_reverse_order_and_leave_no_process(tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = f"""
def stop(*_):
    with open({str(order)!r}, "a") as file:
        file.write(sys.argv[-1] + " ")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
{_WAIT}"""
    async with Supervisor() as mesh:
        for name in ("one", "two", "three"):
            spec = _spec(tmp_path, name, code)
            await mesh.start(
                ChildSpec(name=name, argv=[*spec.argv, name], log_file=spec.log_file, ready=_READY)
            )
        assert mesh.names() == ["one", "two", "three"]
        await mesh.restart("two")
        order.write_text("")
        pids = [mesh.pid(name) for name in mesh.names()]
    assert order.read_text().split() == ["three", "two", "one"]
    assert not any(map(procstat.is_alive, pids))
    await mesh.stop()


async def test_readiness_follows_the_callable(tmp_path: Path) -> None:
    asked = 0

    async def ready() -> bool:
        nonlocal asked
        asked += 1
        return asked == 3

    async with Supervisor() as mesh:
        argv = [sys.executable, "-c", "import signal; signal.pause()"]
        await mesh.start(ChildSpec(name="child", argv=argv, log_file=tmp_path / "log", ready=ready))
        assert asked == 3
        with pytest.raises(ValueError, match="running already"):
            await mesh.start(ChildSpec(name="child", argv=argv, log_file=tmp_path / "log"))


async def test_child_that_never_gets_ready_is_stopped_and_reported(tmp_path: Path) -> None:
    mesh = Supervisor()
    spec = ChildSpec(
        name="mute",
        argv=[sys.executable, "-c", "import signal; print('almost', flush=True); signal.pause()"],
        log_file=tmp_path / "log",
        ready=_READY,
        ready_timeout=0.5,
    )
    with pytest.raises(ChildFailedError, match=r"mute was not ready in 0.5 s\nalmost"):
        await mesh.start(spec)
    assert not mesh.running("mute")
    assert not procstat.is_alive(mesh.pid("mute"))


async def test_exit_before_readiness_is_reported_with_log_even_if_check_hangs(
    tmp_path: Path,
) -> None:
    async def never() -> bool:
        return await asyncio.Event().wait()

    mesh = Supervisor()
    (tmp_path / "log").write_text("of an earlier run\n")
    argv = [sys.executable, "-c", "print('no such table'); raise SystemExit(3)"]
    with pytest.raises(ChildFailedError, match="ended with code 3") as caught:
        await mesh.start(ChildSpec(name="child", argv=argv, log_file=tmp_path / "log", ready=never))
    assert caught.value.tail == "no such table"


async def test_exit_after_readiness_is_reported_while_waiting_for_a_signal(tmp_path: Path) -> None:
    async with Supervisor() as mesh:
        await mesh.start(_spec(tmp_path, "child", _WAIT))
        mesh.send_signal("child", signal.SIGSEGV)
        with pytest.raises(ChildFailedError, match="child was killed by SIGSEGV"):
            await mesh.run()
        assert await mesh.exited("child") == -signal.SIGSEGV


async def test_requested_stop_is_no_failure(tmp_path: Path) -> None:
    async with Supervisor() as mesh:
        await mesh.start(_spec(tmp_path, "child", _WAIT, restart=True))
        first = mesh.pid("child")
        await mesh.kill("child")
        assert await mesh.exited("child") == -signal.SIGKILL
        await mesh.restart("child")
        assert mesh.pid("child") != first
        await mesh.stop("child")
        assert mesh.restarts("child") == 0
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(mesh.failure(), 0.1)


async def test_crashed_child_is_restarted(tmp_path: Path) -> None:
    async with Supervisor() as mesh:
        await mesh.start(_spec(tmp_path, "child", _WAIT, restart=True))
        first = mesh.pid("child")
        mesh.send_signal("child", signal.SIGKILL)
        assert await _eventually(lambda: mesh.pid("child") != first and mesh.log_tail("child") == "ready")
        assert mesh.running("child")
        assert mesh.restarts("child") == 1


async def test_restarts_are_bounded(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    code = f"""
with open({str(runs)!r}, "a") as file:
    file.write("run ")
print("ready", flush=True)
sys.exit(7)"""
    async with Supervisor() as mesh:
        await mesh.start(_spec(tmp_path, "child", code, restart=True, max_restarts=2))
        failure = await asyncio.wait_for(mesh.failure(), 20)
        assert (failure.name, failure.reason) == ("child", "ended with code 7")
        assert runs.read_text().split() == ["run"] * 3


async def test_child_that_ignores_sigterm_is_killed_with_its_descendants(tmp_path: Path) -> None:
    code = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
own = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(own.pid, flush=True)
print("ready", flush=True)
signal.pause()"""
    mesh = Supervisor()
    await mesh.start(_spec(tmp_path, "child", code, stop_grace=0.2))
    grandchild = int(mesh.log_tail("child").split()[0])
    assert procstat.is_alive(grandchild)
    await mesh.stop()
    assert await mesh.exited("child") == -signal.SIGKILL
    assert await _eventually(lambda: not procstat.is_alive(grandchild))


async def test_descendants_of_a_dead_child_are_killed(tmp_path: Path) -> None:
    code = """
own = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(own.pid, flush=True)
print("ready", flush=True)
signal.pause()"""
    async with Supervisor() as mesh:
        await mesh.start(_spec(tmp_path, "child", code))
        grandchild = int(mesh.log_tail("child").split()[0])
        mesh.send_signal("child", signal.SIGKILL)
        await mesh.exited("child")
        assert await _eventually(lambda: not procstat.is_alive(grandchild))


async def test_cpu_and_memory_of_a_running_child_are_reported(tmp_path: Path) -> None:
    code = f"""
import time
while time.process_time() < 0.3:
    pass
{_WAIT}"""
    async with Supervisor() as mesh:
        await mesh.start(_spec(tmp_path, "child", code))
        # The system counts in ticks of 10 ms.
        assert 0.28 <= mesh.cpu_seconds("child") < 5
        assert 4 * 1024 * 1024 < mesh.rss_bytes("child") < 200 * 1024 * 1024
        await mesh.stop("child")
        with pytest.raises(ProcessLookupError):
            mesh.cpu_seconds("child")


_CTRL_C = """
import asyncio, re, sys
from pathlib import Path
from meterline_dev.processes import ChildSpec, Supervisor

CHILD = '''
import signal, sys, time
def on_signal(number, frame):
    print("got", signal.Signals(number).name, flush=True)
    if number == signal.SIGTERM and sys.argv[1] == "obeys":
        sys.exit(0)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, on_signal)
print("ready", flush=True)
while True:
    signal.pause()
'''

async def main():
    async with Supervisor() as mesh:
        spec = ChildSpec(
            name="child", argv=[sys.executable, "-c", CHILD, sys.argv[2]], log_file=Path(sys.argv[1]),
            ready=re.compile("ready"), stop_grace=60.0,
        )
        await mesh.start(spec)
        # The child's pid is printed only once `run` waits and has installed its signal handlers.
        asyncio.get_running_loop().call_soon(lambda: print(mesh.pid("child"), flush=True))
        print("ended by", (await mesh.run()).name, flush=True)
    print("all stopped", flush=True)

asyncio.run(main())
"""


async def _foreground(log: Path, manner: str) -> tuple[asyncio.subprocess.Process, int]:
    """A supervisor that leads a process group like a terminal's foreground job, and its child's pid."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _CTRL_C, str(log), manner), stdout=asyncio.subprocess.PIPE, process_group=0
    )
    assert process.stdout is not None
    return process, int(await process.stdout.readline())


async def test_ctrl_c_reaches_only_the_supervisor_which_stops_its_children(tmp_path: Path) -> None:
    process, child = await _foreground(tmp_path / "log", "obeys")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = await process.communicate()
    assert output.decode().splitlines() == ["ended by SIGINT", "all stopped"]
    assert process.returncode == 0
    assert (tmp_path / "log").read_text().splitlines() == ["ready", "got SIGTERM"]
    assert not procstat.is_alive(child)


async def test_second_ctrl_c_kills_children_immediately(tmp_path: Path) -> None:
    process, child = await _foreground(tmp_path / "log", "refuses")
    os.killpg(process.pid, signal.SIGINT)
    assert await _eventually(lambda: "got SIGTERM" in (tmp_path / "log").read_text())
    begin = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    output, _ = await process.communicate()
    assert time.monotonic() - begin < 30
    assert output.decode().splitlines()[-1] == "all stopped"
    assert not procstat.is_alive(child)
