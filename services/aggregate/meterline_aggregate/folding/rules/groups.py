"""Keys of groups, and of the rest, which counts combinations that have no group of their own."""

from __future__ import annotations

import json
from typing import Final

from meterline_aggregate.folding.rules.digests import digest
from meterline_aggregate.meters.rules.definitions import Pairs

# The value shown for the rest's dimensions. A real value may have the same text and is another group.
REST_VALUE: Final = "(other)"

# A tenant and the digest of the group's dimensions.
GroupKey = tuple[int, bytes]
# A tenant and the set's dimensions, as `names_of` returns them.
SetKey = tuple[int, str]


def group_key(tenant_id: int, group: Pairs) -> GroupKey:
    return tenant_id, digest(json.dumps(group, ensure_ascii=False))


def names_of(group: Pairs) -> str:
    """The names of the group's dimensions, sorted, joined by commas. Names contain no commas."""
    return ",".join(sorted(name for name, _ in group))


def rest_of(names: str) -> Pairs:
    """The dimensions shown for the rest of a set."""
    return tuple((name, REST_VALUE) for name in names.split(","))


def rest_key(key: SetKey) -> GroupKey:
    """Differs from the keys of all groups: those are digests of lists."""
    tenant_id, names = key
    return tenant_id, digest(json.dumps({"rest": names}))
