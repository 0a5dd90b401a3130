"""Become another program whose life is tied to the process that asked for it.

Run as a script by `meterline_dev.spawn`, with an isolated interpreter and the standard library alone;
the program replaces this process, so its pid is the child that the caller holds. It is a script and not
a `preexec_fn` because code between fork and exec of a threaded parent may deadlock.

Arguments: PARENT_PID DEATH_SIGNAL UID GID CAPABILITY PROGRAM [ARGUMENT...]; -1 means "leave unchanged".
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_CAPABILITY_VERSION_3 = 0x20080522


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapabilityData(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _drop_to(libc: ctypes.CDLL, uid: int, gid: int, capability: int) -> None:
    """Leave root for `uid`, keeping at most one capability, over the coming exec as well."""
    keep = capability >= 0
    if keep:
        # access(2) ignores the capabilities of a non-root process unless this bit is set, and Postgres
        # asks access(2) whether it may run its own binaries.
        _checked(libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "securebits")
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if keep:
        mask = 1 << capability
        header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
        data = (_CapabilityData * 2)(_CapabilityData(mask, mask, mask), _CapabilityData(0, 0, 0))
        _checked(libc.capset(ctypes.byref(header), ctypes.byref(data)), "capset")
        _checked(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0), "ambient capability")


def _die_with_parent(libc: ctypes.CDLL, parent: int, death_signal: int) -> None:
    # After the change of user: the kernel forgets the death signal when credentials change.
    _checked(libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0), "parent death signal")
    if os.getppid() != parent:
        sys.exit("the parent died before its child could start")


def main(arguments: list[str]) -> None:
    """Apply the orders and exec the program; exits 127 with a message when it cannot be run."""
    parent, death_signal, uid, gid, capability = (int(value) for value in arguments[:5])
    command = arguments[5:]
    libc = ctypes.CDLL(None, use_errno=True)
    if uid >= 0:
        _drop_to(libc, uid, gid, capability)
    if death_signal > 0 and sys.platform == "linux":
        _die_with_parent(libc, parent, death_signal)
    # The interpreter ignores some signals, a shell's background job others; exec would pass that on.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):
        signal.signal(ignored, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        os.execv(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
