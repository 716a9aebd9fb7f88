"""Generate the gRPC stubs beside their proto files, or check that they are current."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent.parent
API = Path("targetd/api/v1")
SUFFIXES = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")


def generate(into: Path) -> None:
    protos = [str(path.relative_to(ROOT)) for path in sorted((ROOT / API).glob("*.proto"))]
    well_known = Path(protoc.__file__).parent / "_proto"
    plugin = Path(sys.executable).parent
    status = protoc.main(
        [
            "protoc",
            f"-I{ROOT}",
            f"-I{well_known}",
            f"--python_out={into}",
            f"--grpc_python_out={into}",
            f"--plugin=protoc-gen-mypy={plugin / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugin / 'protoc-gen-mypy_grpc'}",
            f"--mypy_out=quiet:{into}",
            f"--mypy_grpc_out=quiet:{into}",
            *protos,
        ]
    )
    if status:
        raise SystemExit(f"protoc failed with status {status}")


def contents(root: Path) -> dict[str, str]:
    folder = root / API
    return {
        path.name: path.read_text(encoding="utf-8")
        for pattern in SUFFIXES
        for path in folder.glob(pattern)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if not current")
    if not parser.parse_args().check:
        generate(ROOT)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        if contents(Path(folder)) != contents(ROOT):
            raise SystemExit("the gRPC stubs are not current; run: make stubs")


if __name__ == "__main__":
    main()
