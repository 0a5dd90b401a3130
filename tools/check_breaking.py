"""Fail when the protos break callers of an earlier version (`buf breaking`). Run by `make protos-check`.

The earlier version is the commit that `PROTOS_BASE` names; without it, the point where this branch left
origin/main; on main itself, the commit before. A tree without history has nothing to compare with.

While the stubs are at 0.x, a commit since then may break them on purpose by saying so in a footer,
`BREAKING CHANGE: <why>`. From 1.0 on, what breaks goes into a package of the next version.
"""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOOTER = re.compile(r"^BREAKING CHANGE: \S.*$", re.MULTILINE)


def git(*arguments: str) -> str | None:
    """What git answers, or None when it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def base() -> str | None:
    """The commit to compare with."""
    if named := os.environ.get("PROTOS_BASE"):
        commit = git("rev-parse", "--verify", f"{named}^{{commit}}")
        if commit is None:
            raise SystemExit(f"PROTOS_BASE: there is no commit {named!r}")
        return commit
    head = git("rev-parse", "--verify", "HEAD^{commit}")
    if head is None:
        return None
    if git("diff", "--quiet", "HEAD", "--", "protos") is None:
        return head  # changes that are not committed yet
    fork = git("merge-base", "origin/main", "HEAD")
    return fork if fork and fork != head else git("rev-parse", "--verify", "HEAD~1^{commit}")


def excuse(since: str) -> str | None:
    """The footer that allows breaking, if there is one and the version still permits it."""
    project = tomllib.loads((ROOT / "libs/protos/pyproject.toml").read_text(encoding="utf-8"))
    if not project["project"]["version"].startswith("0."):
        return None
    found = FOOTER.search(git("log", "--format=%B", f"{since}..HEAD") or "")
    return found[0] if found else None


def compare(commit: str) -> int:
    """Run buf against the protos of `commit`; returns its exit code."""
    archive = subprocess.run(
        ["git", "archive", "--format=zip", commit, "buf.yaml", "protos"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if archive.returncode != 0:
        print(f"breaking changes: {commit[:12]} has no protos to compare with")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        zipfile.ZipFile(io.BytesIO(archive.stdout)).extractall(scratch)
        buf = str(Path(sys.executable).parent / "buf")
        return subprocess.run([buf, "breaking", "--against", scratch], cwd=ROOT, check=False).returncode


def main() -> int:
    commit = base()
    if commit is None:
        print("breaking changes: no earlier version is known here")
        return 0
    code = compare(commit)
    if code == 0:
        print(f"breaking changes: none since {commit[:12]}")
    elif reason := excuse(commit):
        print(f"breaking changes are allowed: {reason}")
        return 0
    return code


if __name__ == "__main__":
    sys.exit(main())
