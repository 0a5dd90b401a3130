"""Port reservations, which parallel runs respect."""

import socket
import subprocess
import sys

import pytest
from meterline_dev.servers.ports import free_port, is_bindable, reserve_port

_RESERVE = """
import sys
from meterline_dev.servers.ports import reserve_port
leases = [reserve_port() for _ in range(40)]
print(*(lease.port for lease in leases), flush=True)
sys.stdin.read()
"""


@pytest.mark.req("X4")
def test_processes_reserve_different_ports() -> None:
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _RESERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    try:
        ports = [int(port) for run in runs if run.stdout for port in run.stdout.readline().split()]
    finally:
        for run in runs:
            run.communicate()
    assert len(ports) == len(set(ports)) == 160


@pytest.mark.req("X4")
@pytest.mark.skipif(sys.platform != "linux", reason="leases across processes need abstract sockets")
def test_port_lease_lasts_until_released() -> None:
    lease = reserve_port()
    name = f"\0meterline-port-{lease.port}"
    with socket.socket(socket.AF_UNIX) as other:
        with pytest.raises(OSError, match="in use"):
            other.bind(name)
        lease.release()
        lease.release()
        other.bind(name)


@pytest.mark.req("X4")
def test_port_in_use_is_not_free() -> None:
    port = free_port()
    assert is_bindable(port)
    with socket.create_server(("127.0.0.1", port)):
        assert not is_bindable(port)
