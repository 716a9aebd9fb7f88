"""Checks of every field of every request, before anything is looked at or changed."""

from __future__ import annotations

import ipaddress
import re

from targetd.api.v1 import export_pb2
from targetd.errors import FieldViolation, InvalidArgument

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
ATTACHMENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
# RFC 3720 section 3.2.6.3 with the characters of RFC 3722. Two labels of the
# naming authority and no underscore, so that rtslib and targetcli can read the
# ACL too. The kernel keeps names in 224 bytes, the final NUL among them.
INITIATOR = re.compile(
    r"iqn\.[0-9]{4}-(0[1-9]|1[0-2])\.[a-z0-9-]+(\.[a-z0-9-]+)+(:[a-z0-9.:-]+)?"
    r"|eui\.[0-9a-f]{16}"
    r"|naa\.([0-9a-f]{16}|[0-9a-f]{32})"
)
INITIATOR_LENGTH_MAX = 223
# lvm(8), VALID NAMES; what LVM keeps for itself is refused further down. Tags
# hold the name too, behind a prefix of ours.
LV_NAME = re.compile(r"[A-Za-z0-9_+.][A-Za-z0-9_+.-]{0,111}")
LV_NAMES_RESERVED = re.compile(
    r"\.{1,2}|(snapshot|pvmove).*"
    r"|.*(_cdata|_cmeta|_corig|_mimage|_mlog|_pmspare|_rimage|_rmeta|_tdata|_tmeta|_vdata"
    r"|_vorigin|_imeta|_iorig|_cvol|_wcorig).*"
)
TEXT_LENGTH_MAX = 255
# 1 EiB: more than LVM can make, and still an int64 in every unit in use.
SIZE_MAX = 1 << 60
PAGE_SIZE_MAX = 1000
PAGE_TOKEN_LENGTH_MAX = 256


class Violations:
    """Gathers what is wrong with a request, so that one answer names every field."""

    def __init__(self) -> None:
        self._found: list[FieldViolation] = []

    def add(self, field: str, description: str) -> None:
        self._found.append(FieldViolation(field, description))

    def check(self, ok: bool, field: str, description: str) -> None:
        if not ok:
            self.add(field, description)

    def raise_if_any(self) -> None:
        """Raises InvalidArgument naming every field found wrong."""
        if self._found:
            raise InvalidArgument(self._found)

    def uuid(self, field: str, value: str) -> None:
        self.check(
            UUID.fullmatch(value) is not None,
            field,
            "must be a UUID in lower case, like 3f2504e0-4f89-41d3-9a0c-0305e82c3301",
        )

    def attachment_id(self, field: str, value: str) -> None:
        self.check(
            ATTACHMENT_ID.fullmatch(value) is not None,
            field,
            "must be 1 to 64 of the characters A-Z a-z 0-9 . _ -, the first a letter or digit",
        )

    def pool_name(self, field: str, value: str) -> None:
        if value:
            self.check(NAME.fullmatch(value) is not None, field, "is not a name of a pool")

    def lv_name(self, field: str, value: str) -> None:
        self.check(
            LV_NAME.fullmatch(value) is not None and not LV_NAMES_RESERVED.fullmatch(value),
            field,
            "is not a name that LVM gives to a logical volume",
        )

    def size(self, field: str, value: int) -> None:
        self.check(0 < value <= SIZE_MAX, field, f"must be between 1 and {SIZE_MAX} bytes")

    def text(self, field: str, value: str) -> None:
        self.check(
            len(value) <= TEXT_LENGTH_MAX and value.isprintable(),
            field,
            f"must be at most {TEXT_LENGTH_MAX} printable characters",
        )

    def page(self, page_size: int, page_token: str) -> None:
        self.check(
            0 <= page_size <= PAGE_SIZE_MAX, "page_size", f"must be between 0 and {PAGE_SIZE_MAX}"
        )
        self.check(
            len(page_token) <= PAGE_TOKEN_LENGTH_MAX and page_token.isprintable(),
            "page_token",
            "was not handed out by this server",
        )

    def initiator(self, field: str, value: str) -> None:
        # Some letters of other alphabets become ASCII ones in lower case.
        name = value.lower() if value.isascii() else ""
        self.check(
            len(name) <= INITIATOR_LENGTH_MAX and INITIATOR.fullmatch(name) is not None,
            field,
            "must be an iSCSI name of at most 223 characters, like iqn.2004-10.org.example:host",
        )

    def connector(self, field: str, connector: export_pb2.Connector) -> None:
        self.initiator(f"{field}.initiator", connector.initiator)
        if connector.ip:
            self.address(f"{field}.ip", connector.ip)
        for name in ("host", "platform", "os_type", "mountpoint"):
            self.text(f"{field}.{name}", getattr(connector, name))

    def address(self, field: str, value: str) -> None:
        self.check(is_address(value), field, "must be an IPv4 or IPv6 address")


def is_address(value: str) -> bool:
    """Without a zone ("%eth0"): that means something on one host only, and may be any text."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return "%" not in value


def address_and_port(value: str) -> tuple[str, int] | None:
    """Read "192.0.2.1:80" or "[2001:db8::1]:80"; None when it is neither."""
    address, _, port = value.rpartition(":")
    if address.startswith("[") and address.endswith("]"):
        address = address[1:-1]
    elif ":" in address:
        return None
    if not is_address(address) or not port.isascii() or not port.isdecimal():
        return None
    return (address, int(port)) if 0 < int(port[:6]) < 1 << 16 else None
