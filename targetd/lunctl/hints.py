"""What to do about each refusal of the daemon, by its reason."""

from __future__ import annotations

from collections.abc import Mapping

LOG = "The daemon's log says more: journalctl -u targetd"
OF_REASONS: Mapping[str, tuple[str, ...]] = {
    "NOT_EXPORTED": ("lunctl export create {volume_id}",),
    "HAS_CONNECTIONS": (
        "lunctl connection list --volume {volume_id}",
        "lunctl connection remove {volume_id} ATTACHMENT",
    ),
    "EXPORTED": ("lunctl export remove {volume_id}",),
    "HAS_SNAPSHOTS": (
        "lunctl snapshot list --volume {volume_id}",
        "lunctl snapshot delete SNAPSHOT",
    ),
    "BEING_COPIED": ("lunctl operation list",),
    "COPYING": ("lunctl operation watch {operation_id}",),
    "NOT_MULTI_ATTACH": (
        "lunctl connection remove {volume_id} {attachment_id}",
        "Several hosts at once need a volume made with --multi-attach.",
    ),
    "LOGGED_IN": (
        "Log out on the initiator first: iscsiadm -m node -T TARGET --logout",
        "Or close its session, whatever it is writing: --close-session",
    ),
    "NAME_TAKEN": ("Choose another name or id, or rename what has it: lvrename",),
    "DEVICE_IN_USE": ("On the storage host, lsblk and fuser show what holds it.",),
    "SNAPSHOT_OVERFLOWED": ("lunctl snapshot delete {snapshot_id}",),
    "RESOURCE_EXHAUSTED": ("lunctl pool list",),
    "POOL_DATA_FULL": ("lunctl pool list",),
    "POOL_METADATA_FULL": ("lunctl pool list",),
    "OVER_SUBSCRIBED": ("lunctl pool list",),
    "VG_METADATA_FULL": ("lunctl pool list",),
    "TOO_MANY_WATCHERS": ("End some of the commands that watch, or use the lists.",),
    "STARTING": ("See how far it is: journalctl -fu targetd",),
    "STOPPING": ("systemctl status targetd",),
    "STATE_NOT_WRITABLE": ("Is the disk of the records full? df -h /var/lib/targetd",),
    "UNAVAILABLE": (LOG,),
    "INTERNAL": (LOG,),
}
OF_CODES: Mapping[str, tuple[str, ...]] = {
    "DEADLINE_EXCEEDED": (
        "Whether it was done is not known: the same command again finishes it, or tells.",
    ),
    "ABORTED": ("Repeat it in a moment.",),
    "PERMISSION_DENIED": ("Who may do what goes by the role in the client's certificate.",),
    "UNIMPLEMENTED": ("The daemon is older than this lunctl.",),
    "UNKNOWN": (LOG,),
}


class _Names(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return name.removesuffix("_id").upper()


def hints_for(reason: str, code: str, metadata: Mapping[str, str]) -> tuple[str, ...]:
    found = OF_REASONS.get(reason) or OF_CODES.get(code, ())
    return tuple(hint.format_map(_Names(metadata)) for hint in found)
