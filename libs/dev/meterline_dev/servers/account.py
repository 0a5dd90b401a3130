"""Which account a server runs under when this process is root.

Postgres refuses to run as root. It then runs under the account that owns its data, or under `nobody`
for a new data directory: no account is created and no existing permission is widened. Where that
account may not enter a parent directory (a home of mode 0700, say) the server keeps one capability of
root's, the one to pass through and read such directories.
"""

import os
import pwd
import stat
from collections.abc import Iterable
from pathlib import Path

from meterline_dev.spawn import Account

_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2
_CAP_SETPCAP = 8
_STATUS = Path("/proc/self/status")


class UnreachableError(PermissionError):
    """The unprivileged account may not enter a directory that its server needs."""


def server_account(owned: Path, needed: Iterable[Path], name: str = "nobody") -> Account | None:
    """The account for a server that owns `owned` and needs to reach `needed`; None unless root.

    Raises UnreachableError when a directory is closed to the account and no capability helps, and
    LookupError when there is no account `name`.
    """
    if os.geteuid() != 0:
        return None
    uid, gid = _owner(owned) or _named(name)
    closed = closed_directory([owned, *needed], uid, gid)
    if closed is None:
        return Account(uid, gid)
    capability = _passing_capability()
    if capability is None:
        raise UnreachableError(
            f"this server cannot run as root, and the account {uid} that it runs under may not enter "
            f"{closed}: use a directory that others may enter, or `chmod o+x {closed}`"
        )
    return Account(uid, gid, capability)


def _owner(directory: Path) -> tuple[int, int] | None:
    """Owner and group of an existing directory that is not root's."""
    try:
        status = directory.stat()
    except FileNotFoundError:
        return None
    return (status.st_uid, status.st_gid) if status.st_uid != 0 else None


def _named(name: str) -> tuple[int, int]:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise LookupError(f"no account {name} for a server that may not run as root") from None
    return entry.pw_uid, entry.pw_gid


def close_to_others(directory: Path) -> int | None:
    """Makes a directory that only its owner may enter and read, or closes one that is there; answers the mode
    that it had if that was wider. Its files are secrets and data of tenants.

    For root without a capability to pass on (see above) others may enter and not read it, since the account
    of Postgres has to pass through.
    """
    closed = 0o711 if os.geteuid() == 0 and _passing_capability() is None else 0o700
    try:
        directory.mkdir(mode=closed, parents=True)
    except FileExistsError:
        was = stat.S_IMODE(directory.stat().st_mode)
        if not was & 0o077 & ~closed:
            return None
        directory.chmod(was & (0o700 | closed))
        return was
    return None


def closed_directory(paths: Iterable[Path], uid: int, gid: int) -> Path | None:
    """The first directory on the way to any of `paths` that the account may not enter, by mode bits."""
    for path in paths:
        for parent in reversed(path.resolve().parents):
            if not _may_enter(parent, uid, gid):
                return parent
    return None


def _may_enter(directory: Path, uid: int, gid: int) -> bool:
    try:
        status = directory.stat()
    except FileNotFoundError:
        return True  # it will be created, open to others
    if status.st_uid == uid:
        return bool(status.st_mode & stat.S_IXUSR)
    if status.st_gid == gid:
        return bool(status.st_mode & stat.S_IXGRP)
    return bool(status.st_mode & stat.S_IXOTH)


def _passing_capability() -> int | None:
    """The weakest of root's capabilities that opens directories and that this process may pass on."""
    permitted = _permitted()
    if not permitted >> _CAP_SETPCAP & 1:
        return None
    for capability in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE):
        if permitted >> capability & 1:
            return capability
    return None


def _permitted() -> int:
    """The capabilities of this process as a bit mask; 0 where there are none to speak of."""
    try:
        lines = _STATUS.read_text().splitlines()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1], 16) for line in lines if line.startswith("CapPrm:")), 0)
