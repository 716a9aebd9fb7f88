"""The daemon of the command that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from targetd.lunctl.settings import settings

if TYPE_CHECKING:
    from targetd.lunctl.client import Client


def connect() -> Client:
    """Closed when the command ends. Importing grpc takes long, so only what calls does it."""
    from targetd.lunctl.client import Client

    client = Client(settings())
    click.get_current_context().call_on_close(client.close)
    return client
