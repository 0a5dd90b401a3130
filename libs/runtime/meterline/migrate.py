"""A small migration runner: numbered SQL files, applied once, in order, under a lock.

A file is `<number>_<name>.sql` in the `migrations` folder of a package; `for_service` returns the packages
that make up a service's schema. Checksums are kept: a file that changed after its use stops the runner.
Migrations expand first and contract later, so that the version before still runs on the schema.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import psycopg
from psycopg import sql

from meterline.auth.grants import SERVICES

_FILE = re.compile(r"(\d{4})_(\w+)\.sql")

# Names in schema_migrations of packages that have moved since: what was applied is not applied again.
_RECORDED_AS = {"meterline.tenants": "meterline.replicas"}


class MigrationError(Exception):
    """The files and the schema do not fit together."""


@dataclass(frozen=True)
class Migration:
    """package: the name that schema_migrations records"""

    package: str
    number: int
    name: str
    body: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.body.encode()).hexdigest()


def load(package: str) -> list[Migration]:
    """The migrations in `<package>/migrations`, in order. Raises MigrationError on a hole."""
    found = []
    for entry in resources.files(package).joinpath("migrations").iterdir():
        if match := _FILE.fullmatch(entry.name):
            body = entry.read_text(encoding="utf-8")
            found.append(Migration(_RECORDED_AS.get(package, package), int(match[1]), match[2], body))
    found.sort(key=lambda migration: migration.number)
    if [migration.number for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError(f"{package}: numbers must run from 1 without holes")
    return found


def packages(service: str) -> tuple[str, ...]:
    """What makes up `service`'s schema, in order: messaging, the replica of tenants, the service's own.

    Identity owns the tenants, so it keeps no replica of them.
    """
    common = ("meterline.db",) if service == "identity" else ("meterline.db", "meterline.tenants")
    return (*common, f"meterline_{service}")


def for_service(service: str) -> list[Migration]:
    """All migrations of `service`'s schema, in order."""
    return [migration for package in packages(service) for migration in load(package)]


def apply(dsn: str, schema: str, migrations: Sequence[Migration]) -> list[str]:
    """Applies what is missing as the owner of `schema`; returns their names.

    Each migration is one transaction. Several processes may call this at once.
    """
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("SELECT pg_advisory_lock(hashtext(%s))", (f"meterline.migrate.{schema}",))
        # A migration that waits for a lock blocks all later statements, so it soon gives up.
        connection.execute("SET lock_timeout = '5s'")
        connection.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(schema)))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (package text NOT NULL, number integer NOT NULL,"
            " name text NOT NULL, checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now(),"
            " PRIMARY KEY (package, number))"
        )
        known: dict[tuple[str, int], str] = {
            (package, number): checksum
            for package, number, checksum in connection.execute(
                "SELECT package, number, checksum FROM schema_migrations"
            )
        }
        applied = []
        for migration in migrations:
            key = (migration.package, migration.number)
            if key in known:
                if known[key] != migration.checksum:
                    raise MigrationError(f"{schema}: {key} changed after it was applied")
                continue
            with connection.transaction():
                connection.execute(migration.body)
                connection.execute(
                    "INSERT INTO schema_migrations (package, number, name, checksum) VALUES (%s, %s, %s, %s)",
                    (*key, migration.name, migration.checksum),
                )
            applied.append(f"{migration.package}/{migration.number:04d}_{migration.name}")
        return applied


def main(arguments: Sequence[str] | None = None) -> None:
    """Brings the schema of a service up to date: `python -m meterline.migrate <service>`.

    Reads METERLINE_OWNER_DATABASE_URL, or METERLINE_SECRETS_DIR; prints what it applied. Ends with status 2
    when no service has that name.
    """
    # Not imported for nothing: it takes a fifth of a second, and whoever calls `apply` has the address.
    from meterline.config import MigrationSettings
    from meterline.config import load as load_settings

    parser = argparse.ArgumentParser(prog="meterline.migrate", description="Brings a schema up to date.")
    parser.add_argument("service", choices=sorted(SERVICES))
    service = parser.parse_args(arguments).service
    settings = load_settings(MigrationSettings)
    for name in apply(settings.owner_database_url.get_secret_value(), service, for_service(service)):
        print(f"{service}: applied {name}")  # noqa: T201 - a command's output


if __name__ == "__main__":
    main()
