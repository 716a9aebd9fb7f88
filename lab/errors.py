"""What can go wrong in the lab, each with its cure."""


class LabError(Exception):
    """Something is missing or did not work; the message is one line with the cure."""


class CommandFailed(LabError):
    """A command in a node, or on the lab's network, ended with another status than 0."""

    def __init__(self, argv: list[str], status: int, output: str) -> None:
        super().__init__(f"{' '.join(argv)}: status {status}: {output.strip()}")
        self.status = status
        self.output = output


class CommandTimeout(LabError):
    """A command in a node did not end in time; it may still run."""
