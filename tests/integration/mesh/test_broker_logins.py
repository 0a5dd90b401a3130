"""The logins of a running mesh's broker are in private files, and are not printed with its addresses."""

from __future__ import annotations

import io
import stat
from urllib.parse import urlsplit

import pytest
from meterline_dev.addresses import addresses
from meterline_dev.mesh import SERVICES, Mesh
from rich.console import Console

pytestmark = [pytest.mark.req("T4.1", "S8"), pytest.mark.xdist_group("mesh")]


@pytest.mark.asyncio(loop_scope="package")
async def test_broker_logins_are_readable_by_owner_only(mesh: Mesh) -> None:
    files = (mesh.nats.config_file, mesh.nats_url_file)
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600, 0o600]
    assert mesh.nats_url_file.read_text() == mesh.nats.url
    console = Console(file=io.StringIO(), width=200)
    console.print(addresses(mesh))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for name in SERVICES:
        assert str(urlsplit(mesh.nats_url(name)).password) not in shown
    assert str(urlsplit(mesh.nats.url).password) not in shown
    assert str(mesh.nats_url_file) in shown
