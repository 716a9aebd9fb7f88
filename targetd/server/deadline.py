"""The caller's deadline, as the workers understand it."""

from __future__ import annotations

import grpc

from targetd.workers import Deadline

# For callers that set none: longer than any operation takes on a healthy host.
DEFAULT_SECONDS = 60.0


def deadline_of(context: grpc.ServicerContext) -> Deadline:
    seconds = context.time_remaining()
    if seconds is None:
        deadline = Deadline(DEFAULT_SECONDS)
    else:
        deadline = Deadline(min(seconds, 3600.0), kept_by_caller=True)
    if not context.add_callback(deadline.cancel):
        deadline.cancel()
    return deadline
