"""Generate `meterline_protos` from `protos/`. Run by `make protos`; `--check` fails on a difference.

The compiler writes imports of `meterline.…`, which is the name of the runtime library; the published
package is `meterline_protos`, so the imports are rewritten. Run it in the environment that
`requirements-codegen.lock` describes: the oldest compiler that serves, so that the stubs load on
protobuf 6 and 7 alike (docs/adr/0004).
"""

from __future__ import annotations

import filecmp
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "protos"
TARGET = ROOT / "libs" / "protos" / "meterline_protos"
IMPORT = re.compile(r"^from meterline\.", re.MULTILINE)
HEADER = '"""Generated from protos/ by tools/generate_protos.py; not edited by hand."""\n'


def generate(into: Path) -> None:
    """Write the whole package below `into`."""
    protos = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.proto"))
    flags = [f"--{plugin}_out={into}" for plugin in ("python", "mypy", "grpc_python", "mypy_grpc")]
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{SOURCE}", *flags, *protos]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    for path in [*into.rglob("*.py"), *into.rglob("*.pyi")]:
        if "_pb2_grpc" in path.name and "class " not in _body(path):
            path.unlink()  # a file of messages only has no stubs
            continue
        path.write_text(IMPORT.sub("from meterline_protos.", path.read_text()))
    package = into / "meterline"
    for folder in [package, *(p for p in package.rglob("*") if p.is_dir())]:
        (folder / "__init__.py").write_text(HEADER)
    (package / "py.typed").touch()


def _body(path: Path) -> str:
    text = path.read_text()
    # The stub preamble of mypy-protobuf declares helper classes even where no service follows.
    return re.sub(r"class (_\w+)\(.*", "", text)


def differences(fresh: Path, kept: Path) -> list[str]:
    """Names of files that differ or stand on one side only."""
    names = {str(p.relative_to(base)) for base in (fresh, kept) for p in base.rglob("*.py*") if p.is_file()}
    names = {name for name in names if "__pycache__" not in name}
    _, mismatch, missing = filecmp.cmpfiles(fresh, kept, sorted(names), shallow=False)
    return mismatch + missing


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = Path(scratch) / "meterline"
        stale = differences(fresh, TARGET)
        if "--check" in sys.argv:
            print("\n".join(f"stale: {name}" for name in stale) or "generated code is current")
            return 1 if stale else 0
        for name in stale:
            (TARGET / name).parent.mkdir(parents=True, exist_ok=True)
            if (fresh / name).exists():
                (TARGET / name).write_bytes((fresh / name).read_bytes())
            else:
                (TARGET / name).unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
