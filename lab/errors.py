"""What can go wrong in the lab. Every message is one line, with the cure where there is one."""

from __future__ import annotations

from collections.abc import Sequence


class LabError(Exception):
    """Anything the lab itself could not do."""


class PreconditionError(LabError):
    """The machine lacks something; ``cure`` is what to do about it."""

    def __init__(self, problem: str, cure: str) -> None:
        super().__init__(f"{problem}; {cure}")
        self.problem = problem
        self.cure = cure


class NotRoot(PreconditionError):
    """A network namespace and its taps need root."""


class ProgramsMissing(PreconditionError):
    """The kernel or a program that the nodes use is not installed."""


class SharedMemory(PreconditionError):
    """/dev/shm, where the nodes' memory lies, is too small or not executable."""


class MemoryShort(PreconditionError):
    """The machine has too little memory for the nodes."""


class BootFailed(LabError):
    """A node ended, or said nothing, before it was ready; ``console`` is what it printed."""

    def __init__(self, node: str, why: str, console: str) -> None:
        last = next((line for line in reversed(console.splitlines()) if line.strip()), "nothing")
        super().__init__(f"node {node} did not boot: {why}; its console ends with: {last.strip()}")
        self.console = console


class NodeDown(LabError):
    """The node is not running, or went down during the command."""


class CommandFailed(LabError):
    """A command in a node, or on the lab's network, ended with another status than 0."""

    def __init__(self, argv: Sequence[str], status: int, output: str) -> None:
        super().__init__(f"{' '.join(argv)}: status {status}: {output.strip()}")
        self.argv = list(argv)
        self.status = status
        self.output = output


class CommandTimeout(LabError):
    """A command did not end in time; a node has ended it and what it started."""


class LoginFailed(LabError):
    """No session to a target; ``rc`` is iscsiadm's."""

    def __init__(self, target: str, portal: str, rc: int, output: str) -> None:
        super().__init__(f"login to {target} at {portal}: iscsiadm ended with {rc}: {output}")
        self.rc = rc


class LoginRefused(LoginFailed):
    """The target does not let this initiator in: no access record, or wrong CHAP values."""
