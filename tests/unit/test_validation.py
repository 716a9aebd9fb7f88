"""Every check of a field: what passes, and what must not."""

from __future__ import annotations

import pytest

from targetd.api.v1 import export_pb2
from targetd.errors import InvalidArgument
from targetd.validation import (
    PAGE_SIZE_MAX,
    PAGE_TOKEN_LENGTH_MAX,
    SIZE_MAX,
    TEXT_LENGTH_MAX,
    Violations,
    is_address,
)

ID = "3f2504e0-4f89-41d3-9a0c-0305e82c3301"
IQN = "iqn.2004-10.org.example:host"
# What has broken parsers, shells, paths and terminals before; no field takes it.
HOSTILE = (
    "../../etc/passwd",
    "/etc/passwd",
    "$(reboot)",
    "`reboot`",
    "a;reboot",
    "a|b",
    "a&b",
    "a>b",
    "a b",
    "a'b",
    'a"b',
    "a\\b",
    "a*",
    "%s%n",
    "--force",
    "-rf",
    "@tag",
    "a\0b",
    "a\nb",
    "a\rb",
    "a\tb",
    "\x1b[31m",
    "a\u202eb",
    "a\u200bb",
    "ä",
    "\U0001f600",
    "\u0661",
    "x" * 70_000,
)


def named(check: str, *values: object) -> list[str]:
    """The fields that a check finds wrong."""
    violations = Violations()
    getattr(violations, check)("field", *values)
    try:
        violations.raise_if_any()
    except InvalidArgument as error:
        assert error.violations
        return [violation.field for violation in error.violations]
    return []


@pytest.mark.parametrize("value", [ID, "0" * 8 + "-0000-0000-0000-" + "0" * 12])
def test_ids_that_pass(value: str) -> None:
    assert named("uuid", value) == []


@pytest.mark.parametrize(
    "value",
    [
        "",
        ID.upper(),
        ID[:-1],
        ID + "0",
        ID + "\n",
        "\n" + ID,
        " " + ID,
        ID.replace("-", ""),
        "{" + ID + "}",
        "urn:uuid:" + ID,
        ID.replace("3", "\u0663"),
        ID.replace("f", "\uff46"),
        ID.replace("-", "\u2010"),
        ID[:-1] + "g",
        *HOSTILE,
    ],
)
def test_ids_that_do_not(value: str) -> None:
    assert named("uuid", value) == ["field"]


@pytest.mark.parametrize("value", ["a", "0", "A.b_c-d", "x" * 64, ID])
def test_attachment_ids_that_pass(value: str) -> None:
    assert named("attachment_id", value) == []


@pytest.mark.parametrize(
    "value", ["", ".", "..", "-a", "_a", ".a", "x" * 65, "a\n", "a/b", "a,b", *HOSTILE]
)
def test_attachment_ids_that_do_not(value: str) -> None:
    assert named("attachment_id", value) == ["field"]


@pytest.mark.parametrize("value", ["", "thin", "0", "a.b_c-d", "x" * 63])
def test_pool_names_that_pass(value: str) -> None:
    assert named("pool_name", value) == []


@pytest.mark.parametrize("value", ["-a", ".", "..", "x" * 64, "a\n", "a/b", "\n", *HOSTILE])
def test_pool_names_that_do_not(value: str) -> None:
    assert named("pool_name", value) == ["field"]


@pytest.mark.parametrize(
    ("value", "passes"),
    [
        (1, True),
        (SIZE_MAX, True),
        (0, False),
        (-1, False),
        (SIZE_MAX + 1, False),
        ((1 << 63) - 1, False),
        (-(1 << 63), False),
    ],
)
def test_sizes(value: int, passes: bool) -> None:
    assert named("size", value) == ([] if passes else ["field"])


@pytest.mark.parametrize(
    ("value", "passes"),
    [
        ("", True),
        ("x" * TEXT_LENGTH_MAX, True),
        ("a host, called 'häst' (1)", True),
        ("x" * (TEXT_LENGTH_MAX + 1), False),
        ("a\nb", False),
        ("a\0", False),
        ("\x1b[31m", False),
        ("\x7f", False),
        ("a\u202eb", False),
        ("a\u200bb", False),
        ("\u2028", False),
    ],
)
def test_texts(value: str, passes: bool) -> None:
    assert named("text", value) == ([] if passes else ["field"])


@pytest.mark.parametrize(
    "value",
    [
        IQN,
        IQN.upper(),
        "iqn.2004-10.org.example",
        "iqn.2004-10.org.example:a.b-c:d",
        "iqn.1993-08.org.debian:01:abcdef123456",
        "iqn.1991-05.com.microsoft:host.example.org",
        "iqn.2004-10.org.example:" + "a" * (223 - len("iqn.2004-10.org.example:")),
        "eui.02004567A425678D",
        "naa.52004567ba64678d",
        "naa.62004567ba64678d0123456789abcdef",
    ],
)
def test_initiators_that_pass(value: str) -> None:
    assert named("initiator", value) == []


@pytest.mark.parametrize(
    "value",
    [
        "",
        "host",
        "iqn",
        "iqn.",
        "iqn.2004-10",
        "iqn.2004-10.org",
        "iqn.2004-00.org.example:a",
        "iqn.2004-13.org.example:a",
        "iqn.204-10.org.example:a",
        "iqn.2004-10.org.example:",
        "iqn.2004-10.org..example:a",
        "iqn.2004-10.org.example:a_b",
        "iqn.2004-10.org.example:a/b",
        "iqn.2004-10.org.example:../../b",
        "iqn.2004-10.org.example:a b",
        "iqn.2004-10.org.example:a\n",
        "iqn.2004-10.org.example:a\0",
        "iqn.2004-10.org.example:ä",
        "iqn.2004-10.org.example:" + "a" * (224 - len("iqn.2004-10.org.example:")),
        "eui.0200",
        "eui.02004567A425678G",
        "naa.5200",
        "naa.52004567ba64678d0",
        # In lower case these are one and two characters of other alphabets.
        "iqn.2004-10.org.example:\u212a",
        "iqn.2004-10.org.example:\u0130",
        "iqn.\u0662\u0660\u0660\u0664-10.org.example:a",
        "iqn.\uff12\uff10\uff10\uff14-10.org.example:a",
        *HOSTILE,
        *(IQN + one for one in HOSTILE if one not in ("-rf", "--force")),
    ],
)
def test_initiators_that_do_not(value: str) -> None:
    assert named("initiator", value) == ["field"]


@pytest.mark.parametrize(
    ("value", "passes"),
    [
        ("192.0.2.1", True),
        ("2001:db8::1", True),
        ("::", True),
        ("fe80::1%eth0", False),
        ("", False),
        ("192.0.2", False),
        ("192.0.2.256", False),
        ("192.0.2.01", False),
        ("192.0.2.1/24", False),
        ("192.0.2.1:3260", False),
        ("[2001:db8::1]", False),
        ("2001:db8::1::", False),
        ("\u0661.2.3.4", False),
        ("1.2.3.4\n", False),
        ("fe80::1%", False),
        ("fe80::1%a%b", False),
        ("fe80::1%$(reboot)", False),
        ("fe80::1%a\nb", False),
        ("fe80::1%../../etc", False),
        ("fe80::1%" + "x" * 60_000, False),
        *((one, False) for one in HOSTILE),
    ],
)
def test_addresses(value: str, passes: bool) -> None:
    assert is_address(value) == passes
    assert named("address", value) == ([] if passes else ["field"])


@pytest.mark.parametrize(
    ("page_size", "page_token", "wrong"),
    [
        (0, "", []),
        (1, "after:" + ID, []),
        (PAGE_SIZE_MAX, "x" * PAGE_TOKEN_LENGTH_MAX, []),
        (-1, "", ["page_size"]),
        (PAGE_SIZE_MAX + 1, "", ["page_size"]),
        (-(1 << 31), "", ["page_size"]),
        ((1 << 31) - 1, "\n", ["page_size", "page_token"]),
        (0, "x" * (PAGE_TOKEN_LENGTH_MAX + 1), ["page_token"]),
        (0, "a\0", ["page_token"]),
        (0, "a\u202e", ["page_token"]),
    ],
)
def test_pages(page_size: int, page_token: str, wrong: list[str]) -> None:
    violations = Violations()
    violations.page(page_size, page_token)
    if not wrong:
        violations.raise_if_any()
        return
    with pytest.raises(InvalidArgument) as caught:
        violations.raise_if_any()
    assert [violation.field for violation in caught.value.violations] == wrong


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"initiator": IQN}, []),
        ({"initiator": IQN, "host": "h", "ip": "192.0.2.1", "multipath": True}, []),
        ({"initiator": IQN, "platform": "x86_64", "os_type": "linux", "mountpoint": "/mnt"}, []),
        ({}, ["field.initiator"]),
        ({"initiator": IQN, "ip": "host"}, ["field.ip"]),
        (
            {"initiator": "x", "ip": "x", "host": "\n", "platform": "\n", "os_type": "\n"},
            ["field.initiator", "field.ip", "field.host", "field.platform", "field.os_type"],
        ),
        ({"initiator": IQN, "mountpoint": "x" * 256}, ["field.mountpoint"]),
    ],
)
def test_connectors_name_every_wrong_field(fields: dict[str, object], wrong: list[str]) -> None:
    connector = export_pb2.Connector()
    for name, value in fields.items():
        setattr(connector, name, value)
    assert named("connector", connector) == wrong


def test_an_answer_names_all_fields_in_order() -> None:
    violations = Violations()
    violations.raise_if_any()
    violations.check(True, "right", "is right")
    violations.check(False, "first", "is wrong")
    violations.add("second", "is wrong too")
    with pytest.raises(InvalidArgument, match="first: is wrong; second: is wrong too"):
        violations.raise_if_any()
