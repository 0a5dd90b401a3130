"""Rights of the application roles: as documented, as granted in a database, and as needed by statements."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import psycopg
from meterline.db.provision import app_role

STATED: Final[dict[str, dict[str, Any]]] = tomllib.loads(
    Path(__file__).with_name("rights.toml").read_text(encoding="utf-8")
)
VERBS: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")

# Rights on a table; `UPDATE (column)` for each column.
Rights = frozenset[str]

_TABLES: Final = """
SELECT c.relname, c.relkind::text, parent.relname, acl.privilege_type, acl.grantee::regrole::text, NULL
FROM pg_class c
LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
LEFT JOIN pg_class parent ON parent.oid = i.inhparent,
LATERAL aclexplode(c.relacl) acl
WHERE c.relnamespace = %(schema)s::regnamespace AND acl.grantee <> c.relowner
UNION ALL
SELECT c.relname, c.relkind::text, parent.relname, acl.privilege_type, acl.grantee::regrole::text, a.attname
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
LEFT JOIN pg_class parent ON parent.oid = i.inhparent,
LATERAL aclexplode(a.attacl) acl
WHERE c.relnamespace = %(schema)s::regnamespace AND acl.grantee <> c.relowner
"""
_DEFINERS: Final = """
SELECT proname FROM pg_proc
WHERE pronamespace = %(schema)s::regnamespace AND has_function_privilege(%(role)s, oid, 'EXECUTE')
  AND (prosecdef OR proname ~ '^(protect_|take_|grant_|app_role)')
ORDER BY proname
"""


def stated(service: str) -> dict[str, Rights]:
    """The documented rights by table; a partition is `<table>_*`."""
    return {name: parsed(text) for name, text in STATED[service]["tables"].items()}


def parsed(text: str) -> Rights:
    """The rights in a list as in GRANT."""
    found: set[str] = set()
    for verb, columns in re.findall(r"(\w+)\s*(?:\(([^)]*)\))?(?:,\s*|$)", text):
        found |= {f"{verb} ({column})" for column in columns.split(", ")} if columns else {verb}
    return frozenset(found)


def real(admin_dsn: str, service: str) -> dict[str, Rights]:
    """The rights on tables of all roles except the owner. Rights of roles other than the application's have
    the role's name as prefix."""
    found: dict[str, set[str]] = {}
    for name, kind, parent, verb, grantee, column in _query(admin_dsn, _TABLES, service):
        if kind == "S":
            continue
        right = verb if column is None else f"{verb} ({column})"
        table = name if parent is None else f"{parent}_*"
        found.setdefault(table, set()).add(right if grantee == app_role(service) else f"{grantee}: {right}")
    return {name: frozenset(rights) for name, rights in found.items()}


def sequences(admin_dsn: str, service: str) -> list[str]:
    """Sequences that the application may use."""
    return sorted({row[0] for row in _query(admin_dsn, _TABLES, service) if row[1] == "S"})


def definers(admin_dsn: str, service: str) -> list[str]:
    """Functions that the application may call and that run with the owner's rights, or grant rights."""
    return [name for (name,) in _query(admin_dsn, _DEFINERS, service)]


def _query(admin_dsn: str, query: str, service: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(admin_dsn) as connection:
        parameters = {"schema": service, "role": app_role(service)}
        return connection.execute(query.encode(), parameters).fetchall()


# --- rights needed by statements

_NOISE = re.compile(r"--[^\n]*|'(?:[^']|'')*'")
_WORD = re.compile(r"\w+|[^\w\s]")
_READS: Final = ("FROM", "JOIN", "USING")
_ENDS: Final = ("WHERE", "FROM", "RETURNING", ";")


def needed(statements: Iterable[str], tables: Iterable[str]) -> dict[str, Rights]:
    """The rights that `statements` need, derived from their text."""
    known = set(tables)
    found: dict[str, set[str]] = {}
    for statement in statements:
        for table, rights in _needed_by(_WORD.findall(_NOISE.sub("''", statement)), known).items():
            found.setdefault(table, set()).update(rights)
    return {table: frozenset(rights) for table, rights in found.items()}


def _needed_by(words: list[str], known: set[str]) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = {}
    inserting = ""
    for at, word in enumerate(words):
        following = words[at + 1] if at + 1 < len(words) else ""
        before = words[at - 1] if at else ""
        if word == "INTO" and before == "INSERT":
            inserting = following
            found.setdefault(inserting, set()).add("INSERT")
        elif word == "FROM" and before == "DELETE":
            found.setdefault(following, set()).update(("DELETE", "SELECT"))
        elif word in _READS and following in known:
            found.setdefault(following, set()).add("SELECT")
        elif word == "UPDATE" and before not in ("FOR", "KEY"):
            table = inserting if before == "DO" else following
            start = words.index("SET", at) + 1
            changed = {f"UPDATE ({column})" for column in _assigned(words[start:])}
            found.setdefault(table, set()).update(changed, ("SELECT",))
        elif inserting and (word == "RETURNING" or (word == "CONFLICT" and following == "(")):
            found[inserting].add("SELECT")
    return found


def _assigned(words: list[str]) -> Iterable[str]:
    """The assigned columns of a SET list, which ends at its own depth of parentheses."""
    depth, fresh = 0, True
    for at, word in enumerate(words):
        depth += (word == "(") - (word == ")")
        if depth < 0 or (depth == 0 and word in _ENDS):
            return
        if fresh:
            assert words[at + 1] == "=", words[at : at + 3]
            yield word
        fresh = depth == 0 and word == ","
