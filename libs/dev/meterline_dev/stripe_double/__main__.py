"""`python -m meterline_dev.stripe_double`: the double as a process of its own."""

import argparse
import os
from collections.abc import Sequence

from meterline_dev.variables import CONTROL_KEY

from .server import DoubleServer
from .settings import MAX_FINALIZE_AFTER, DoubleSettings


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m meterline_dev.stripe_double",
        description="A stateful double of the Stripe API that Meterline uses; prints its address when ready. "
        f"Control calls need the key in {CONTROL_KEY}; without one they are refused.",
    )
    found.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0 (default) takes a free one")
    found.add_argument("--db", default=":memory:", help="SQLite file to keep the state in (default: memory)")
    found.add_argument(
        "--finalize-after",
        type=int,
        default=DoubleSettings().finalize_after,
        metavar="SECONDS",
        help=f"from a draft invoice to its finalisation, at most {MAX_FINALIZE_AFTER} (default: %(default)s)",
    )
    found.add_argument("--ready-fd", type=int, help="also write the address to this file descriptor")
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    settings = DoubleSettings(
        finalize_after=options.finalize_after, control_key=os.environ.get(CONTROL_KEY, "")
    )
    server = DoubleServer(options.db, options.port, settings)

    def announce() -> None:
        print(server.address, flush=True)
        if options.ready_fd is not None:
            with os.fdopen(options.ready_fd, "w") as ready:
                ready.write(f"{server.address}\n")

    server.run(announce)


if __name__ == "__main__":
    main()
