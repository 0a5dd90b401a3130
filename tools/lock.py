"""Resolve `requirements*.in` to `requirements*.lock`. Run by `make lock`; options go to the resolver.

Locks name versions and hashes, and no address: where packages come from is the business of the machine
that installs them, and the hashes make every source as good as any other (docs/adr/0005).
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("requirements", "requirements-codegen")
# One file for every platform and every Python from the oldest that is supported.
OPTIONS = (
    "--quiet",
    "--universal",
    "--python-version=3.11",
    "--generate-hashes",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--no-annotate",
    "--no-header",
)
HEADER = "# Made from {name}.in by `make lock`.\n"
ADDRESS = re.compile(r"://|^\s*(--index-url|--extra-index-url|--find-links|-e )|@ file|(^|\s)/", re.MULTILINE)


def lock(name: str, options: list[str]) -> None:
    """Rewrite `<name>.lock`. Versions that it names already stay, unless `options` has `--upgrade`."""
    target = ROOT / f"{name}.lock"
    command = [str(Path(sys.executable).parent / "uv"), "pip", "compile", *OPTIONS, *options]
    command += [f"{name}.in", "--output-file", target.name]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    text = HEADER.format(name=name) + target.read_text(encoding="utf-8")
    if found := ADDRESS.search(text):
        raise SystemExit(f"{target.name} would carry an address: {found[0].strip()!r}")
    target.write_text(text, encoding="utf-8")


def main() -> None:
    for name in NAMES:
        lock(name, sys.argv[1:])


if __name__ == "__main__":
    main()
