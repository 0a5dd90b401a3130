"""The check for breaking proto changes finds a break, and accepts it only when it is declared."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.architecture.tree import ROOT
from tools import check_breaking

pytestmark = [
    pytest.mark.req("K5"),
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git"),
]

BROKEN = "protos/meterline/common/v1/types.proto"
IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgsign=false")

Commit = Callable[[str], None]


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commit:
    """A repository with the current protos in its first commit, and a function that commits its files."""

    def commit(message: str) -> None:
        for arguments in (("add", "-A"), (*IDENTITY, "commit", "-q", "--allow-empty", "-m", message)):
            subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)

    monkeypatch.setattr(check_breaking, "ROOT", tmp_path)
    # Within a git hook these variables would direct the commits below to the outer repository.
    for name in [name for name in os.environ if name.startswith("GIT_")] + ["PROTOS_BASE"]:
        monkeypatch.delenv(name, raising=False)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True, capture_output=True)
    shutil.copytree(ROOT / "protos", tmp_path / "protos")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    (tmp_path / "libs/protos").mkdir(parents=True)
    shutil.copy(ROOT / "libs/protos/pyproject.toml", tmp_path / "libs/protos")
    commit("first")
    return commit


def drop_a_field(root: Path) -> None:
    path = root / BROKEN
    path.write_text(path.read_text().replace("  google.protobuf.Timestamp end_time = 2;\n", ""))


def test_first_version_is_no_break(history: Commit) -> None:
    assert check_breaking.main() == 0


def test_addition_is_no_break(history: Commit, tmp_path: Path) -> None:
    path = tmp_path / BROKEN
    path.write_text(path.read_text() + "\nmessage Another {\n  string name = 1;\n}\n")
    history("add a message")
    assert check_breaking.main() == 0


def test_break_is_found_before_and_after_the_commit(history: Commit, tmp_path: Path) -> None:
    drop_a_field(tmp_path)
    assert check_breaking.main() != 0
    history("drop a field")
    assert check_breaking.main() != 0


def test_declared_break_passes_only_before_1_0(history: Commit, tmp_path: Path) -> None:
    drop_a_field(tmp_path)
    history("drop a field\n\nBREAKING CHANGE: ranges have no end any more")
    assert check_breaking.main() == 0
    project = tmp_path / "libs/protos/pyproject.toml"
    project.write_text(project.read_text().replace('version = "0.', 'version = "1.'))
    assert check_breaking.main() != 0
