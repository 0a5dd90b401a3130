"""One API call as the handlers see it, and what comes back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from .forms import Form, parse_form
from .params import Params
from .store import JsonObject


@dataclass(slots=True)
class ApiRequest:
    """`path` is the URL's path, `ids` its variable parts, `form` the body (POST) or query (GET, DELETE)."""

    method: str
    path: str
    ids: Mapping[str, str]
    text: str
    request_id: str
    idempotency_key: str | None
    form: Form = field(init=False)
    params: Params = field(init=False)
    expand: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.form = parse_form(self.text)
        self.params = Params(self.form)
        self.expand = self.params.strings("expand")


@dataclass(frozen=True, slots=True)
class ApiResponse:
    """`headers` are those beyond what every answer carries."""

    status: int
    body: JsonObject
    headers: Mapping[str, str] = field(default_factory=dict)
