"""The command ``attachd``."""

from __future__ import annotations

import os


def main() -> None:
    # gRPC's own lines on stderr repeat what the error says, in other words.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from attachd.commands import PROGRAM, root

    root(prog_name=PROGRAM)


if __name__ == "__main__":
    main()
