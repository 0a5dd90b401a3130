"""Free TCP ports on the loopback address that parallel runs do not take from each other.

Asking the kernel for any free port and closing it again is a race: the port may be handed to the next
who asks, and a server that is restarted may find its port taken by some client's outgoing connection.
So ports come from below the range that the kernel hands out by itself, and a lease is held on each for
as long as its owner lives.
"""

import errno
import os
import random
import socket
import sys
import weakref
from pathlib import Path

LOOPBACK = "127.0.0.1"
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 20_000
_WIDTH = 10_000


class NoFreePortError(OSError):
    """Every port of the range is taken."""


class PortLease:
    """A port that no other lease on this machine has, until `release` or the end of the process.

    The lease does not hold the port itself, which its server must be able to bind. It is an abstract
    Unix socket named after the port: the kernel scopes it to the network namespace, as it does ports,
    and frees it when the process dies. Where there are none (outside Linux) a lease is only a port that
    was free when it was taken.
    """

    def __init__(self, port: int, fd: int | None) -> None:
        self.port = port
        self._close = weakref.finalize(self, _close, fd)

    def release(self) -> None:
        """Give the port back; harmless when done already."""
        self._close()


def _close(fd: int | None) -> None:
    if fd is not None:
        os.close(fd)


def _lock(port: int) -> int | None:
    """Take the machine-wide lock of a port: its file descriptor, None where there is no such lock.

    Raises OSError (EADDRINUSE) when another lease has it.
    """
    if sys.platform != "linux":
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
        lock.bind(f"\0meterline-port-{port}")
        return lock.detach()


def is_bindable(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def _candidates() -> range:
    """Ports below those that the kernel picks for outgoing connections and for port 0."""
    try:
        first_ephemeral = int(_RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first_ephemeral = _LOWEST + _WIDTH
    top = first_ephemeral if first_ephemeral > _LOWEST + 1_000 else _LOWEST + _WIDTH
    return range(_LOWEST, min(top, _LOWEST + _WIDTH))


def reserve_port() -> PortLease:
    """Lease a port that is free on 127.0.0.1. Raises NoFreePortError when none is."""
    ports = _candidates()
    first = random.SystemRandom().randrange(len(ports))
    for port in (*ports[first:], *ports[:first]):
        try:
            fd = _lock(port)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        lease = PortLease(port, fd)
        if is_bindable(port):
            return lease
        lease.release()
    raise NoFreePortError(errno.EADDRINUSE, f"no free port in {ports.start}..{ports.stop - 1}")


def free_port() -> int:
    """A port that was free a moment ago, for callers that need a number; prefer `reserve_port`."""
    lease = reserve_port()
    lease.release()
    return lease.port
