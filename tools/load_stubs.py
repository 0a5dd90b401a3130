"""Import every generated stub. Run by `make protos-check` on both protobuf versions that are supported."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

from google.protobuf import __version__

PACKAGE = Path(__file__).resolve().parent.parent / "libs" / "protos"


def main() -> None:
    sys.path.insert(0, str(PACKAGE))
    package = importlib.import_module("meterline_protos")
    names = [module.name for module in pkgutil.walk_packages(package.__path__, "meterline_protos.")]
    for name in names:
        importlib.import_module(name)
    print(f"{len(names)} modules of stubs load on protobuf {__version__}")


if __name__ == "__main__":
    main()
