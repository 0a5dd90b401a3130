"""Groups that usage is kept by, and the one of all that have no room of their own."""

from __future__ import annotations

import json
from typing import Final

from meterline_aggregate.folding.rules.digests import digest
from meterline_aggregate.meters.rules.definitions import Pairs

# What the rest's dimensions say. A real value may be the same text; it is another group.
REST_VALUE: Final = "(other)"

# A tenant and the digest of a group's dimensions.
GroupKey = tuple[int, bytes]
# A tenant and what `names_of` says of a group.
SetKey = tuple[int, str]


def group_key(tenant_id: int, group: Pairs) -> GroupKey:
    return tenant_id, digest(json.dumps(group, ensure_ascii=False))


def names_of(group: Pairs) -> str:
    """The dimensions that the group is of, sorted, with commas between. Names have no commas."""
    return ",".join(sorted(name for name, _ in group))


def rest_of(names: str) -> Pairs:
    """What the rest of a set of dimensions is shown as."""
    return tuple((name, REST_VALUE) for name in names.split(","))


def rest_key(key: SetKey) -> GroupKey:
    """No real group has it: theirs are of lists."""
    tenant_id, names = key
    return tenant_id, digest(json.dumps({"rest": names}))
