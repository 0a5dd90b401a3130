"""The secrets of a mesh: created once, readable by their owner only, and valid for their purpose."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from meterline.auth.principals import GRANTABLE, Kind, Permission
from meterline.auth.public_keys import KeyRing
from meterline.auth.tokens import ServiceTokens
from meterline.crypto.master_keys import MasterKeys
from meterline.crypto.sealer import Place, Sealer
from meterline.errors import UnauthenticatedError
from meterline_dev.cli import app
from meterline_dev.keys import Keys, SecretFile, write_secret
from meterline_dev.mesh import SERVICES, Mesh
from meterline_dev.servers import account
from meterline_dev.servers.account import close_to_others
from typer.testing import CliRunner

pytestmark = pytest.mark.req("X4", "S8")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_secrets_are_created_once_and_readable_by_owner_only(tmp_path: Path) -> None:
    first, second = Keys(tmp_path), Keys(tmp_path)
    first.publish()
    assert (first.private("ingest"), first.master_keys) == (second.private("ingest"), second.master_keys)
    assert {mode(path) for path in tmp_path.iterdir()} == {0o600}
    assert first.private("ingest") not in repr(first)
    place = Place(1, "table", "column", "row")
    assert (
        Sealer(MasterKeys.parse(second.master_keys)).open(
            Sealer(MasterKeys.parse(first.master_keys)).seal(b"s", place), place
        )
        == b"s"
    )


def test_existing_secrets_are_not_recreated(tmp_path: Path) -> None:
    path = tmp_path / "below" / "secrets.json"
    secrets = SecretFile(path)
    assert (secrets.get("a", lambda: "1"), secrets.get("b", lambda: "2")) == ("1", "2")
    assert secrets.get("a", lambda: "3") == SecretFile(path).get("a", lambda: "3") == "1"


def test_rewritten_secret_file_becomes_private(tmp_path: Path) -> None:
    path = tmp_path / "token"
    write_secret(path, "old")
    path.chmod(0o644)
    write_secret(path, "new")
    assert (path.read_text(), mode(path)) == ("new", 0o600)


@pytest.mark.req("T4.1")
def test_every_service_has_its_own_broker_login(tmp_path: Path) -> None:
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


def test_mesh_operator_has_all_grantable_permissions(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    mesh.keys.publish()
    known = ServiceTokens(KeyRing(mesh.keys.public_keys_file))
    operator, _ = known.verify(mesh.token())
    assert (operator.kind, operator.tenant, operator.permissions) == (Kind.SERVICE, None, GRANTABLE)
    bound, _ = known.verify(mesh.keys.operator_signer([Permission.READ], "acme").token())
    assert (bound.name, bound.tenant, list(bound.permissions)) == ("operator", "acme", [Permission.READ])
    assert mesh.metadata() == (("authorization", f"Bearer {mesh.token()}"),)


@pytest.mark.req("T4.1")
def test_each_service_of_a_mesh_gets_only_its_own_key(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    keys = {service: mesh.keys.private(service) for service in SERVICES}
    assert len(set(keys.values())) == len(SERVICES)
    for service in SERVICES:
        environment = json.dumps(mesh._environment(service))
        assert [name for name, key in keys.items() if json.dumps(key)[1:-1] in environment] == [service]


@pytest.mark.req("T4.1")
def test_running_mesh_uses_renewed_operator_key(tmp_path: Path) -> None:
    mesh = Mesh(tmp_path)
    mesh.keys.publish()
    before, service = mesh.token(), mesh.keys.service_signer("ingest").token()
    # The command runs in another process.
    result = CliRunner().invoke(app, ["renew-operator", str(tmp_path)])
    assert result.exit_code == 0, result.output
    known = ServiceTokens(KeyRing(mesh.keys.public_keys_file))
    with pytest.raises(UnauthenticatedError):
        known.verify(before)
    assert mesh.token() != before
    for token in (mesh.token(), mesh.token_file.read_text()):
        assert known.verify(token)[0].name == "operator"
    assert known.verify(service)[0].name == "ingest"


def test_renew_operator_creates_nothing_without_a_mesh(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["renew-operator", str(tmp_path)])
    assert result.exit_code == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.req("T4.3")
@pytest.mark.parametrize(
    ("mode_before", "reported"), [(0o755, 0o755), (0o777, 0o777), (0o711, 0o711), (0o700, None)]
)
def test_data_directory_is_closed_to_others(tmp_path: Path, mode_before: int, reported: int | None) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    directory.chmod(mode_before)
    assert close_to_others(directory) == reported
    assert mode(directory) == 0o700
    assert close_to_others(directory) is None


@pytest.mark.req("T4.3")
def test_new_data_directory_is_created_closed(tmp_path: Path) -> None:
    assert close_to_others(tmp_path / "new" / "data") is None
    assert mode(tmp_path / "new" / "data") == 0o700


@pytest.mark.req("T4.3")
def test_data_directory_allows_traversal_where_postgres_lacks_the_capability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(account, "_passing_capability", lambda: None)
    tmp_path.chmod(0o755)
    assert close_to_others(tmp_path) == 0o755
    assert mode(tmp_path) == 0o711
    assert close_to_others(tmp_path) is None


def opened(directory: Path) -> Path:
    directory.chmod(0o755)
    return directory


@pytest.mark.req("T4.3")
async def test_mesh_reports_that_it_closes_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh, messages = Mesh(opened(tmp_path)), list[str]()

    def stop_here() -> None:
        raise InterruptedError

    monkeypatch.setattr(mesh.keys, "publish", stop_here)
    with pytest.raises(InterruptedError):
        await mesh.start(messages.append)
    assert messages == [f"{tmp_path} is closed to others now: its mode was 0755"]
    assert mode(tmp_path) & 0o077 in (0, 0o011)
