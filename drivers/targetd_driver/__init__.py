"""The driver that attachment layers use to reach a targetd storage host."""

from targetd_driver.channel import Endpoint, TlsFiles
from targetd_driver.driver import TargetdDriver
from targetd_driver.errors import (
    DriverError,
    Forbidden,
    InvalidConnector,
    InvalidInput,
    Late,
    NoSpace,
    NotFound,
    Refused,
    Unavailable,
    Unsupported,
)

__all__ = [
    "DriverError",
    "Endpoint",
    "Forbidden",
    "InvalidConnector",
    "InvalidInput",
    "Late",
    "NoSpace",
    "NotFound",
    "Refused",
    "TargetdDriver",
    "TlsFiles",
    "Unavailable",
    "Unsupported",
]
