"""The addresses of a running mesh's parts."""

from __future__ import annotations

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from meterline_dev.mesh import DATABASE, SERVICES, Mesh


def addresses(mesh: Mesh) -> RenderableType:
    """Every address, and where to find the secrets that are not shown."""
    services = Table(
        box=box.SIMPLE_HEAD, title="Where everything is", title_justify="left", title_style="bold"
    )
    for name in ("service", "gRPC", "metrics"):
        services.add_column(name, no_wrap=True)
    for service in SERVICES:
        services.add_row(service, mesh.address(service), mesh.metrics_url(service))
    others = Table(box=None, show_header=False, padding=(0, 2))
    others.add_column(no_wrap=True)
    others.add_column(overflow="fold")
    stripe = "double, key rk_test_double" if mesh.uses_double else "test mode, with the key given"
    for name, value in (
        ("Token", f"$(cat {mesh.token_file}) as metadata authorization: Bearer; the operator's, for a day"),
        ("Postgres", f"postgresql://postgres@127.0.0.1:{mesh.postgres.port}/{DATABASE}?sslmode=disable"),
        ("", f"password: PGPASSWORD=$(cat {mesh.postgres.password_file})"),
        ("NATS", f"nats://127.0.0.1:{mesh.nats.port}, monitoring {mesh.nats.monitor_url}"),
        ("", f"login: NATS_URL=$(cat {mesh.nats_url_file})"),
        ("Stripe", f"{mesh.stripe_url} ({stripe})"),
        ("Data and logs", str(mesh.directory)),
    ):
        others.add_row(name, Text(value))
    return Group(services, others)
