"""A case: the data that a seed stands for. It has a small world, the steps of its users, and the faults.

All of it is drawn before the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from imsim.core.policies import Policies
from imsim.faultsearch.faults import Fault

PROBE = "probe"  # the name and the kind of the device with which each user inspects the final state
EARLIEST = 0.2  # seconds; every device has started by this time


@dataclass(frozen=True, slots=True)
class Step:
    """An action that a user takes with a device.

    `action`: one of `app`'s actions, or "leave" (stop the client), or "come" (start it). `arguments`: the arguments of
    the action (see `case_file.ARGUMENTS`).
    """

    time: float
    device: str
    action: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def user(self) -> str:
        return user_of(self.device)

    def __str__(self) -> str:
        arguments = " ".join(f"{name}={value}" for name, value in self.arguments.items() if value != "")
        return f"{self.time:9.3f} {self.device:<10} {self.action} {arguments}".rstrip()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "arguments": dict(self.arguments)}


@dataclass(frozen=True, slots=True)
class Case:
    """The whole input of a run.

    `kinds`: the kinds of the devices, in their order. Latencies: seconds, one way. `wall_skew`: the largest difference
    in seconds between the wall clocks of two nodes, or of two lives of one node.
    """

    seed: int
    users: tuple[str, ...]
    devices: tuple[str, ...]  # "alice/d0"
    kinds: tuple[str, ...]
    gateways: int
    routers: int
    policies: Policies
    client_latency: float
    backend_latency: float
    storage_latency: float
    duration: float
    steps: tuple[Step, ...]
    faults: tuple[Fault, ...]
    wall_skew: float = 0.0

    @property
    def gateway_names(self) -> list[str]:
        return names_of("gateway", self.gateways)

    @property
    def router_names(self) -> list[str]:
        return names_of("router", self.routers)

    def kind(self, device: str) -> str:
        """Return the kind of a device, such as "alice/d0", or of a probe."""
        return self.kinds[self.devices.index(device)] if device in self.devices else PROBE

    def slot(self, device: str) -> tuple[str, str]:
        """Return the slot of a device: only the last device that logged in to a slot may stay logged in."""
        return slot(self.policies, device, self.kind(device))

    def with_(self, *, steps: tuple[Step, ...] | None = None, faults: tuple[Fault, ...] | None = None) -> Case:
        return replace(
            self,
            steps=self.steps if steps is None else steps,
            faults=self.faults if faults is None else faults,
        )

    def to_json(self) -> dict[str, Any]:
        fields = asdict(replace(self, steps=(), faults=()))
        return {**fields, "steps": [s.to_json() for s in self.steps], "faults": [f.to_json() for f in self.faults]}


def user_of(device: str) -> str:
    return device.split("/")[0]


def names_of(tier: str, count: int) -> list[str]:
    """Return the names of the nodes of a tier."""
    return [f"{tier}{index}" for index in range(count)]


def slot(policies: Policies, device: str, kind: str) -> tuple[str, str]:
    """Return the slot of a device of this kind: see `Case.slot`."""
    user, name = device.split("/")
    return user, {"all": name, "one_per_kind": kind, "single": ""}[policies.sessions]
