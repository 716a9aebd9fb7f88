"""The command ``lunctl``."""

from __future__ import annotations

import os

from targetd.lunctl.cli import PROGRAM, root


def main() -> None:
    # gRPC's own lines on stderr repeat what the error says, in other words.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    root(prog_name=PROGRAM)


if __name__ == "__main__":
    main()
