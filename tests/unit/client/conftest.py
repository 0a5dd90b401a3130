"""Fixtures of the client's unit tests."""

import os

import pytest


@pytest.fixture(autouse=True)
def synced(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replaces fsync by a counter of its calls: hundreds of real calls take a minute."""
    calls: list[int] = []

    def fsync(file: int) -> None:
        calls.append(os.fstat(file).st_size)

    monkeypatch.setattr(os, "fsync", fsync)
    return calls
