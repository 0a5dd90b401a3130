"""The `meterline` command: the whole mesh on this machine, and the demo.

Each command imports what it alone needs: the imports of `dev` take most of a second, and scripts run `call`
often.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from meterline_dev.placement import Placement

if TYPE_CHECKING:
    from rich.console import Console

_TOKEN: Final = "METERLINE_TOKEN"
_DATA: Final = Path(".meterline")
_Data = Annotated[
    Path, typer.Option(metavar="DIR", file_okay=False, envvar="METERLINE_DATA", help="Where the mesh is.")
]

app = typer.Typer(
    help="Meterline on one machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def dev(
    once: Annotated[bool, typer.Option("--once", help="End after the demo.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the outcome as JSON in the last line, the rest to stderr.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", file_okay=False, help="Keep all data here; a later run goes on with it."),
    ] = None,
    no_demo: Annotated[bool, typer.Option("--no-demo", help="Start the mesh alone.")] = False,
    limit: Annotated[
        int, typer.Option(hidden=True, min=0, help="Sample about so many flights; 0 takes all.")
    ] = 0,
) -> None:
    """Start Postgres, NATS, the four services and a Stripe double (or use Stripe's test mode, with
    METERLINE_STRIPE_API_KEY), run the demo on real flights, and keep running until Ctrl-C.

    Exit code: 0, 1 when a check or a part fails, 130 when interrupted before the end of the demo.
    """
    import stamina.instrumentation

    from meterline_dev.dev import DevOptions, Ending, run

    if no_demo and as_json:
        raise typer.BadParameter("--json reports on the demo, so it does not go with --no-demo")
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character is no reason to stop.
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    # Waiting for a part that is not up yet is nothing to write about.
    stamina.instrumentation.set_on_retry_hooks([])
    options = DevOptions(once=once, as_json=as_json, data=data, demo=not no_demo, limit=limit)
    with _traced():
        ending = asyncio.run(run(options, _console(as_json)))
    codes = {Ending.GOOD: 0, Ending.BAD: 1, Ending.INTERRUPTED: 130}
    raise typer.Exit(codes[ending])


@app.command()
def call(
    service: Annotated[str, typer.Argument(help="identity, ingest, aggregate or publisher.")],
    method: Annotated[str, typer.Argument(help="A method, for example OnboardTenant.")],
    body: Annotated[str, typer.Argument(help="The request as JSON.")] = "{}",
    pick: Annotated[
        str, typer.Option(metavar="PATH", help="Print only this part of the answer, as lines.0.line_id.")
    ] = "",
    data: _Data = _DATA,
) -> None:
    """Call a service of a mesh that runs here, as its operator, or with the API key in METERLINE_TOKEN.

    Exit code: 0, or 1 with status and details on stderr when the call was refused.
    """
    from meterline_dev.calling import CallError
    from meterline_dev.calling import call as ask
    from meterline_dev.calling import pick as part_of

    try:
        placement = Placement.read(data)
        token = os.environ.get(_TOKEN) or placement.token()
        for answer in ask(placement, service, method, body, token):
            print(part_of(answer, pick) if pick else answer, flush=True)
    except (CallError, OSError) as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from error


@app.command()
def where(
    name: Annotated[str, typer.Argument(help="identity, ingest, aggregate, publisher or stripe.")],
    data: _Data = _DATA,
) -> None:
    """Print the address of a part of a mesh that runs here: host:port, or the URL of Stripe's API."""
    try:
        placement = Placement.read(data)
    except OSError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from error
    known = {**placement.addresses, "stripe": placement.stripe}
    if name not in known:
        raise typer.BadParameter(f"one of {', '.join(known)}", param_hint="NAME")
    print(known[name])


@app.command()
def renew_operator(
    data: Annotated[
        Path, typer.Argument(metavar="DIR", exists=True, file_okay=False, help="The data of the mesh.")
    ],
) -> None:
    """Replace the operator's key. Services, running ones too, refuse tokens of the old key within seconds;
    the new token is in DIR/operator.token."""
    from meterline.auth.public_keys import LOOK_SECONDS

    from meterline_dev.keys import Keys

    keys = Keys(data)
    if not keys.public_keys_file.exists():
        raise typer.BadParameter(f"{data} is not the data of a mesh that was started")
    keys.renew_operator()
    typer.echo(f"{keys.token_file} is new; old tokens stop within {LOOK_SECONDS:g} seconds")


@contextmanager
def _traced() -> Iterator[None]:
    """Traces begin where events are recorded, when there is somewhere to send them."""
    if not any(name in os.environ for name in _TRACE_ENDPOINTS):
        yield
        return
    from meterline.telemetry import tracing

    provider = tracing.set_up("demo")
    try:
        yield
    finally:
        provider.shutdown()


def _console(as_json: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=as_json, highlight=False)
    if not console.is_terminal:
        # A file or a pipe has no width, and 80 columns are too few for the tables.
        console.width = _FILE_WIDTH
    return console


_TRACE_ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_FILE_WIDTH: Final = 130
