"""``lunctl completion``."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from targetd.lunctl.cli import PROGRAM, Command, root
from targetd.lunctl.output import say

VARIABLE = f"_{PROGRAM.upper()}_COMPLETE"


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: lunctl completion bash > /usr/share/bash-completion/completions/lunctl
    zsh:  lunctl completion zsh > "${fpath[1]}/_lunctl"
    fish: lunctl completion fish > ~/.config/fish/completions/lunctl.fish

    Ids of volumes, snapshots, pools, exports, connections and operations complete from
    the daemon, if it answers within a second.
    """
    found = get_completion_class(shell)
    assert found is not None, "click has the shells of the choice"
    say(found(root, {}, PROGRAM, VARIABLE).source())
