"""What is in a target portal group, a backstore and an ACL: filled, compared, put right, emptied.

Each function works on one object of the kernel's tree, given by its path.
"""

from __future__ import annotations

import logging
from contextlib import suppress

from targetd.engines import configfs, lio_portals
from targetd.engines.configfs import ensure_link, ensure_value, make_folder, remove_folder, write
from targetd.failpoints import failpoint
from targetd.model import Acl, Target

log = logging.getLogger(__name__)

TPG_ATTRIBUTES = {
    "authentication": "1",
    "generate_node_acls": "0",
    # With 1, the kernel's default, a stranger's discovery lists every target.
    "demo_mode_discovery": "0",
}
# Written to unset a credential (__iscsi_nacl_auth_##name##_store in Linux).
UNSET = "NULL"


def backstore_is_right(backstore: str, target: Target) -> bool:
    try:
        serial = configfs.read(f"{backstore}/wwn/vpd_unit_serial").rpartition(": ")[2]
        return (
            configfs.read(f"{backstore}/enable") == "1"
            and configfs.read(f"{backstore}/udev_path") == target.device_path
            and serial == target.volume_id
            and not ensure_value(f"{backstore}/attrib/emulate_3pc", "0")
        )
    except FileNotFoundError:
        return False


def pass_discards(backstore: str) -> None:
    for name in ("emulate_tpu", "emulate_tpws"):
        try:
            write(f"{backstore}/attrib/{name}", "1")
        except OSError as error:
            # The kernel refuses where the device below cannot discard.
            log.info("%s stays off for %s: %s", name, backstore, error)


def fill_tpg(tpg: str, target: Target, backstore: str) -> None:
    for name, value in TPG_ATTRIBUTES.items():
        write(f"{tpg}/attrib/{name}", value)
    configfs.mkdir(f"{tpg}/lun/lun_0")
    configfs.link(f"{tpg}/lun/lun_0/volume", backstore)
    lio_portals.add(tpg, target.portals)
    failpoint("lio-target-not-enabled")
    write(f"{tpg}/enable", "1")


def repair_tpg(tpg: str, target: Target, backstore: str, differed: list[str]) -> None:
    for name, value in TPG_ATTRIBUTES.items():
        if ensure_value(f"{tpg}/attrib/{name}", value):
            differed.append(f"attrib/{name}")
    made = make_folder(f"{tpg}/lun/lun_0")
    if ensure_link(f"{tpg}/lun/lun_0", "volume", backstore) or made:
        differed.append("lun/lun_0")
    found = set(configfs.folders(f"{tpg}/np"))
    missing, strange = sorted(set(target.portals) - found), sorted(found - set(target.portals))
    lio_portals.add(tpg, missing)
    lio_portals.remove(tpg, strange)
    differed += [f"portal {portal}" for portal in (*missing, *strange)]
    if ensure_value(f"{tpg}/enable", "1"):
        differed.append("enable")


def empty_tpg(tpg: str) -> None:
    write(f"{tpg}/enable", "0")
    for lun in configfs.folders(f"{tpg}/lun", "lun_"):
        configfs.remove_links(f"{tpg}/lun/{lun}")
        remove_folder(f"{tpg}/lun/{lun}")
    lio_portals.remove(tpg, configfs.folders(f"{tpg}/np"))


def unlink_lun(tpg: str) -> None:
    for initiator in configfs.folders(f"{tpg}/acls"):
        unmap_all(f"{tpg}/acls/{initiator}")
    configfs.remove_links(f"{tpg}/lun/lun_0")


def unmap_all(acl: str) -> None:
    for mapped in configfs.folders(acl, "lun_"):
        configfs.remove_links(f"{acl}/{mapped}")
        remove_folder(f"{acl}/{mapped}")


def fill_acl(folder: str, lun: str, acl: Acl) -> None:
    mapped = f"{folder}/lun_0"
    configfs.mkdir(mapped)
    configfs.link(f"{mapped}/volume", lun)
    failpoint("lio-acl-without-secret")
    if acl.read_only:
        write(f"{mapped}/write_protect", "1")
    # Last, so that nobody gets in before the rest is right: an ACL without
    # credentials admits nobody.
    for name, value in _credentials(acl):
        if value != UNSET:
            write(f"{folder}/auth/{name}", value)


def repair_acl(folder: str, lun: str, acl: Acl) -> list[str]:
    differed, mapped = [], f"{folder}/lun_0"
    with suppress(FileNotFoundError):
        # 0 here would admit this initiator without any CHAP.
        if ensure_value(f"{folder}/attrib/authentication", "-1"):
            differed.append("attrib/authentication")
    for other in configfs.folders(folder, "lun_"):
        if other != "lun_0":
            configfs.remove_links(f"{folder}/{other}")
            remove_folder(f"{folder}/{other}")
            differed.append(other)
    made = make_folder(mapped)
    if ensure_link(mapped, "volume", lun) or made:
        differed.append("lun_0")
    if ensure_value(f"{mapped}/write_protect", "1" if acl.read_only else "0"):
        differed.append("write_protect")
    for name, value in _credentials(acl):
        # The kernel adds one line end; another one would be part of the secret.
        shown = configfs.read_exactly(f"{folder}/auth/{name}").removesuffix("\n")
        if shown != (value if value != UNSET else "") and (value, shown) != (UNSET, UNSET):
            write(f"{folder}/auth/{name}", value)
            differed.append(f"auth/{name}")
    return differed


def _credentials(acl: Acl) -> list[tuple[str, str]]:
    credentials = acl.credentials
    return [
        ("userid", credentials.username),
        ("password", credentials.password),
        ("userid_mutual", credentials.mutual_username or UNSET),
        ("password_mutual", credentials.mutual_password or UNSET),
    ]
