"""Who may call what: a rule for every method; what has none, nobody may call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from targetd.errors import PermissionDenied
from targetd.roles import RANK, Role


@dataclass(frozen=True)
class Rule:
    """Which roles may call a method, and whether it changes anything (then it is audited)."""

    roles: frozenset[Role]
    mutates: bool = False


READ = Rule(frozenset({Role.VIEWER, Role.ATTACHER, Role.ADMIN}))
# What nobody needs in order to attach.
READ_STORAGE = Rule(frozenset({Role.VIEWER, Role.ADMIN}))
CHECK = Rule(frozenset({Role.ATTACHER, Role.ADMIN}))
ATTACH = Rule(frozenset({Role.ATTACHER, Role.ADMIN}), mutates=True)
# Names every initiator, and shows how the host is made.
INSPECT = Rule(frozenset({Role.ADMIN}))
MANAGE = Rule(frozenset({Role.ADMIN}), mutates=True)
NOBODY = Rule(frozenset(), mutates=True)

SERVICES: Mapping[str, Mapping[str, Rule]] = {
    "targetd.v1.VolumeService": {
        "CreateVolume": MANAGE,
        "GetVolume": READ,
        "ListVolumes": READ,
        "ExtendVolume": MANAGE,
        "DeleteVolume": MANAGE,
        "AdoptVolume": MANAGE,
        "ReleaseVolume": MANAGE,
        "CreateSnapshot": MANAGE,
        "GetSnapshot": READ_STORAGE,
        "ListSnapshots": READ_STORAGE,
        "DeleteSnapshot": MANAGE,
        "ListPools": READ_STORAGE,
    },
    "targetd.v1.ExportService": {
        "CreateExport": ATTACH,
        "GetExport": READ,
        "ListExports": READ,
        "RemoveExport": ATTACH,
        "ValidateConnector": CHECK,
        "InitializeConnection": ATTACH,
        "TerminateConnection": ATTACH,
        "GetConnection": READ,
        "ListConnections": READ,
        "ListSessions": READ,
    },
    "targetd.v1.HostService": {
        "GetHost": READ,
        "Watch": READ,
        # Copies and wipes have to end before a volume can be attached or is gone.
        "GetOperation": READ,
        "WatchOperation": READ,
        "Reconcile": MANAGE,
        "GetFlightRecord": INSPECT,
    },
    "grpc.health.v1.Health": {"Check": READ, "List": READ, "Watch": READ},
    "grpc.reflection.v1alpha.ServerReflection": {"ServerReflectionInfo": READ},
}
RULES: Mapping[str, Rule] = {
    f"/{service}/{method}": rule
    for service, methods in SERVICES.items()
    for method, rule in methods.items()
}


def rule_of(method: str) -> Rule:
    """``method`` is what gRPC calls it: ``/package.Service/Method``."""
    return RULES.get(method, NOBODY)


def refusal(method: str, identity: str, role: Role, cure: str) -> PermissionDenied:
    """The answer to a client whose role the method's rule does not name."""
    name = method.rpartition("/")[2]
    needed = sorted(rule_of(method).roles, key=RANK.__getitem__)
    words = " or ".join(needed)
    demand = f"{name} needs the role {words}" if needed else f"no role may call {name}"
    has = f"{identity} has the role {role}" if role is not Role.NONE else f"{identity} has no role"
    return PermissionDenied(
        f"{demand}, {has}{f': {cure}' if cure else ''}",
        role=role.value,
        roles_needed=",".join(needed),
    )
