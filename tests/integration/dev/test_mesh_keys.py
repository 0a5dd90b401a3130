"""The secrets of a mesh: made once, read by their owner only, and good for what they are for."""

from __future__ import annotations

import io
import stat
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from meterline.auth.principals import GRANTABLE, Kind, Permission
from meterline.auth.tokens import ServiceTokens
from meterline.crypto.master_keys import MasterKeys
from meterline.crypto.sealer import Place, Sealer
from meterline_dev.addresses import addresses
from meterline_dev.keys import Keys, SecretFile, write_secret
from meterline_dev.mesh import SERVICES, Mesh, MeshOptions
from rich.console import Console

pytestmark = pytest.mark.req("X4", "S8")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_made_once_and_kept_for_their_owner(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    first, second = Keys(path), Keys(path)
    assert (first.private, first.master_keys) == (second.private, second.master_keys)
    assert mode(path) == 0o600
    assert first.private not in repr(first)
    place = Place(1, "table", "column", "row")
    assert (
        Sealer(MasterKeys.parse(second.master_keys)).open(
            Sealer(MasterKeys.parse(first.master_keys)).seal(b"s", place), place
        )
        == b"s"
    )


def test_what_is_known_is_not_made_again(tmp_path: Path) -> None:
    path = tmp_path / "below" / "secrets.json"
    secrets = SecretFile(path)
    assert (secrets.get("a", lambda: "1"), secrets.get("b", lambda: "2")) == ("1", "2")
    assert secrets.get("a", lambda: "3") == SecretFile(path).get("a", lambda: "3") == "1"


def test_a_file_that_others_could_read_is_for_its_owner_once_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "token"
    write_secret(path, "old")
    path.chmod(0o644)
    write_secret(path, "new")
    assert (path.read_text(), mode(path)) == ("new", 0o600)


@pytest.mark.req("T4.1")
def test_every_service_has_a_login_of_its_own_at_the_broker(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    logins = {name: urlsplit(mesh.nats_url(name)) for name in SERVICES}
    assert {name: login.username for name, login in logins.items()} == {name: name for name in SERVICES}
    passwords = {login.password for login in logins.values()} | {urlsplit(mesh.nats.url).password}
    assert len(passwords) == len(SERVICES) + 1
    assert mode(tmp_path / "passwords.json") == 0o600
    again = Mesh(tmp_path)
    assert [urlsplit(again.nats_url(name)).password for name in SERVICES] == [
        login.password for login in logins.values()
    ]


@pytest.mark.req("T4.1", "S8")
async def test_the_logins_of_the_broker_are_for_their_owner_only(tmp_path: Path) -> None:
    async with Mesh(tmp_path, MeshOptions(services=[])) as mesh:
        assert mode(mesh.nats.config_file) == mode(mesh.nats_url_file) == 0o600
        assert mesh.nats_url_file.read_text() == mesh.nats.url
        console = Console(file=io.StringIO(), width=200)
        console.print(addresses(mesh))
        shown = console.file.getvalue()  # type: ignore[attr-defined]
        for name in SERVICES:
            assert str(urlsplit(mesh.nats_url(name)).password) not in shown
        assert str(urlsplit(mesh.nats.url).password) not in shown
        assert str(mesh.nats_url_file) in shown


def test_the_operator_of_a_mesh_may_do_all_that_can_be_granted(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    known = ServiceTokens(Keys(tmp_path / "keys.json").public)
    operator, _ = known.verify(mesh.token())
    assert (operator.kind, operator.tenant, operator.permissions) == (Kind.SERVICE, None, GRANTABLE)
    bound, _ = known.verify(mesh.signer("somebody", [Permission.READ], "acme").token())
    assert (bound.name, bound.tenant, list(bound.permissions)) == ("somebody", "acme", [Permission.READ])
    assert mesh.metadata() == (("authorization", f"Bearer {mesh.token()}"),)
