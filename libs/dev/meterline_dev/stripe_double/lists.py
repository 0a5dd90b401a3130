"""Lists as Stripe pages them: newest first, `limit` (10), `starting_after` or `ending_before`."""

from collections.abc import Sequence
from dataclasses import dataclass

from .core import Core
from .errors import invalid_parameter, no_such
from .params import Params
from .store import JsonObject

DEFAULT_LIMIT, MAX_LIMIT = 10, 100
_COLUMNS = {"customer", "subscription", "status", "test_clock", "lookup"}
_RANGES = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted."""

    limit: int
    starting_after: str | None
    ending_before: str | None


def read_page(params: Params) -> Page:
    limit = params.integer("limit")
    if limit is not None and not 1 <= limit <= MAX_LIMIT:
        raise invalid_parameter("limit", f"limit must be between 1 and {MAX_LIMIT}.")
    page = Page(limit or DEFAULT_LIMIT, params.string("starting_after"), params.string("ending_before"))
    if page.starting_after and page.ending_before:
        raise invalid_parameter("ending_before", "Give starting_after or ending_before, not both.")
    return page


def read_created(params: Params) -> list[tuple[str, int]]:
    """`created[gte]=...`: (operator, unix seconds) for each bound that is given."""
    created = params.mapping("created")
    given = [(op, created.integer(name)) for name, op in _RANGES.items()]
    return [(op, value) for op, value in given if value is not None]


def envelope(data: Sequence[JsonObject], url: str, *, has_more: bool) -> JsonObject:
    return {"object": "list", "data": list(data), "has_more": has_more, "url": url}


def page_of(items: Sequence[JsonObject], page: Page, url: str) -> JsonObject:
    """A page of a list that is already complete and in order."""
    ids = [item["id"] for item in items]
    start, stop = 0, len(items)
    if page.starting_after:
        start = _position(ids, page.starting_after, "starting_after") + 1
    if page.ending_before:
        stop = _position(ids, page.ending_before, "ending_before")
        start = max(0, stop - page.limit)
        return envelope(items[start:stop], url, has_more=start > 0)
    stop = min(stop, start + page.limit)
    return envelope(items[start:stop], url, has_more=stop < len(items))


def page_from_store(
    core: Core,
    kind: str,
    page: Page,
    url: str,
    *,
    created: Sequence[tuple[str, int]] = (),
    **columns: str | None,
) -> JsonObject:
    """A page of stored objects, filtered by those of `columns` that are not None."""
    where, values = ["kind = ?"], [kind]
    for column, value in columns.items():
        if value is not None:
            assert column in _COLUMNS
            where.append(f"{column} = ?")
            values.append(value)
    clauses, bounds = [f"created {op} ?" for op, _ in created], [value for _, value in created]
    backwards = page.ending_before is not None
    cursor = page.ending_before or page.starting_after
    if cursor:
        clauses.append(f"seq {'>' if backwards else '<'} ?")
        bounds.append(_sequence(core, kind, cursor, "ending_before" if backwards else "starting_after"))
    order = "ASC" if backwards else "DESC"
    sql = f"SELECT body FROM objects WHERE {' AND '.join(where + clauses)} ORDER BY seq {order} LIMIT ?"
    found = core.store.bodies(sql, *values, *bounds, page.limit + 1)
    data = found[: page.limit]
    return envelope(data[::-1] if backwards else data, url, has_more=len(found) > page.limit)


def _position(ids: Sequence[str], wanted: str, param: str) -> int:
    try:
        return ids.index(wanted)
    except ValueError:
        raise no_such("object", wanted, param=param, status=400) from None


def _sequence(core: Core, kind: str, wanted: str, param: str) -> int:
    row = core.store.row("SELECT seq FROM objects WHERE id = ? AND kind = ?", wanted, kind)
    if row is None:
        raise no_such(kind, wanted, param=param, status=400)
    found: int = row[0]
    return found
