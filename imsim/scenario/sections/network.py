"""What lies between the nodes."""

from __future__ import annotations

import numpy as np
from pydantic import Field, field_validator, model_validator

from imsim.scenario.distributions import Constant, Lognormal, SecondsDistribution
from imsim.scenario.draws import Draws
from imsim.scenario.errors import FieldError, suggestion
from imsim.scenario.quantities import PositiveSeconds
from imsim.scenario.sections.base import Section
from imsim.scenario.sections.topology import TIERS

_MOST_SHARE = 1e9


class Link(Section):
    """A connection between two nodes; both directions are alike. Frames keep their order, as in TCP."""

    latency: SecondsDistribution = Field(description="one way, seconds or a duration")
    jitter: SecondsDistribution = Field(
        default=Constant(value=0.0), description="what varies on top of the latency, seconds or a duration"
    )
    loss: float = Field(default=0.0, ge=0, lt=1, description="chance that a transmission is lost (0 to below 1)")
    retransmit: PositiveSeconds = Field(
        default=0.2, description="what each lost transmission adds to the latency, seconds or a duration"
    )
    bandwidth: float | None = Field(
        default=None,
        gt=0,
        le=1e12,
        description="bytes per second, each way: a frame starts when the one before it is sent; absent: no limit",
    )


class ClientLink(Link):
    latency: SecondsDistribution = Field(
        default=Lognormal(median=0.015, p99=0.06), description="one way, seconds or a duration"
    )
    bandwidth: float | None = Field(
        default=None,
        gt=0,
        le=1e12,
        description="bytes per second to the device: a frame starts when the one before it is sent; absent: no limit",
    )
    upload: float | None = Field(
        default=None, gt=0, le=1e12, description="bytes per second from the device; absent: as bandwidth"
    )
    max_retransmits: int | None = Field(
        default=None,
        ge=0,
        description="retransmissions of one frame, all lost, after which the connection breaks; absent: never",
    )


class BackendLink(Link):
    latency: SecondsDistribution = Field(
        default=Lognormal(median=0.0003, p99=0.001), description="one way, seconds or a duration"
    )


def _mbit(rate: float) -> float:
    """Bytes per second."""
    return rate * 125_000


def _jitter(median: float, p99: float) -> Lognormal:
    """No source tells of the rarest; a lognormal of two numbers so far apart makes it seconds, for which every frame
    behind it waits, too. So its tail ends at four times its 99th percentile, which is ours."""
    return Lognormal(median=median, p99=p99, maximum=4 * p99)


#: Networks of clients, one way to the nearest data centre. Round trips are halved; what no source gives is assumed, as
#: is all jitter but that of wifi, and its largest value everywhere.
#:
#: wired          RTT 28 ms, 5 and 1 Mbit/s: "Cable" of WebPageTest's connectivity.ini; jitter assumed
#: wifi           the same behind an access point, whose hop takes 3 ms at the median, about 20 ms at the 90th and 250
#:                ms at the 99th percentile (Sui and others, "Characterizing and improving WiFi latency in large-scale
#:                operational networks", MobiSys 2016; ours has 34 ms at the 90th); loss after the radio's own
#:                repetitions assumed
#: 5g             the radio's round trip about half of LTE's; 166 and 21 Mbit/s: median of Ookla's Speedtest, 3rd
#:                quarter of 2021; jitter and loss assumed
#: 4g             RTT 70 ms, 12 Mbit/s each way: "LTE" of connectivity.ini; Opensignal measured 44 to 66 ms and 21 and
#:                6 Mbit/s in the USA (May 2019), whose upload is taken; jitter and loss assumed
#: 3g             RTT 300 ms, 1.6 and 0.768 Mbit/s: "3G" of connectivity.ini; jitter and loss assumed
#: intercontinental   wired, and RTT 160 ms more: what cloud regions measure between Frankfurt and Singapore; across the
#:                Atlantic half of it (Verizon guarantees 90 ms between London and New York, and 0.5 % loss at most)
PROFILES = {
    "wired": ClientLink(
        latency=Constant(value=0.014),
        jitter=_jitter(0.001, 0.01),
        loss=0.0005,
        bandwidth=_mbit(5),
        upload=_mbit(1),
    ),
    "wifi": ClientLink(
        latency=Constant(value=0.014),
        jitter=_jitter(0.0015, 0.125),
        loss=0.002,
        bandwidth=_mbit(5),
        upload=_mbit(1),
        max_retransmits=6,
    ),
    "5g": ClientLink(
        latency=Constant(value=0.018),
        jitter=_jitter(0.004, 0.05),
        loss=0.003,
        bandwidth=_mbit(166),
        upload=_mbit(21),
        max_retransmits=6,
    ),
    "4g": ClientLink(
        latency=Constant(value=0.035),
        jitter=_jitter(0.008, 0.1),
        loss=0.005,
        bandwidth=_mbit(12),
        upload=_mbit(6),
        max_retransmits=6,
    ),
    "3g": ClientLink(
        latency=Constant(value=0.15),
        jitter=_jitter(0.03, 0.5),
        loss=0.01,
        retransmit=0.6,
        bandwidth=_mbit(1.6),
        upload=_mbit(0.768),
        max_retransmits=6,
    ),
    "intercontinental": ClientLink(
        latency=Constant(value=0.094),
        jitter=_jitter(0.003, 0.03),
        loss=0.005,
        retransmit=0.3,
        bandwidth=_mbit(5),
        upload=_mbit(1),
        max_retransmits=6,
    ),
}

_PAIRS = ("gateway-router", "router-router", "router-storage")  # between which there is anything to say


class Network(Section):
    """What lies between the nodes. Simulated only: a live run has a network of its own."""

    client: ClientLink = Field(default=ClientLink(), description="between a device and its gateway, unless `clients`")
    clients: dict[str, float] = Field(
        default={},
        description="network -> its share of the users, in any unit, in place of `client`: "
        + ", ".join(PROFILES)
        + ", or one of `profiles`",
    )
    profiles: dict[str, ClientLink] = Field(default={}, description="own networks for `clients`, by name")
    backend: BackendLink = Field(default=BackendLink(), description="between gateways, routers and storages")
    links: dict[str, BackendLink] = Field(
        default={}, description=f"other than `backend` between two tiers: {', '.join(_PAIRS)}"
    )

    @field_validator("links")
    @classmethod
    def _pairs(cls, links: dict[str, BackendLink]) -> dict[str, BackendLink]:
        for pair in links:
            if pair not in _PAIRS:
                raise FieldError(pair, f"no two tiers{suggestion(pair, _PAIRS)}; known here: {', '.join(_PAIRS)}")
        return links

    @model_validator(mode="after")
    def _known_networks(self) -> Network:
        known = (*PROFILES, *(name for name in self.profiles if name not in PROFILES))
        for name, share in self.clients.items():
            if name not in known:
                raise FieldError(
                    f"clients.{name}",
                    f"unknown network{suggestion(name, known)}; known here: {', '.join(known)}, or a table"
                    f" network.profiles.{name} of your own",
                )
            if not 0 <= share <= _MOST_SHARE:
                raise FieldError(f"clients.{name}", f"expected a share from 0 to {_MOST_SHARE:g}, got {share:g}")
        if self.clients and not any(self.clients.values()):
            raise FieldError("clients", "expected at least one network with a share above 0")
        return self

    def between(self, one: str, other: str) -> BackendLink:
        """The link between two tiers."""
        pair = "-".join(sorted((one, other), key=TIERS.index))
        return self.links.get(pair, self.backend)

    def in_use(self) -> dict[str, ClientLink]:
        """The networks of clients, by name; where there is only `client`, it has none."""
        if not self.clients:
            return {"": self.client}
        names = sorted(name for name, share in self.clients.items() if share)  # in whatever order they stand
        return {name: self.profiles.get(name) or PROFILES[name] for name in names}

    def of_users(self, seed: int, users: int) -> list[tuple[str, ClientLink]]:
        """Each user's network, with its name."""
        if not self.clients:
            return [("", self.client)] * users
        networks = list(self.in_use().items())
        shares = np.cumsum([self.clients[name] for name, _ in networks])
        drawn = Draws(seed, "network").array(np.arange(users))
        return [networks[n] for n in np.searchsorted(shares[:-1] / shares[-1], drawn, side="right").tolist()]
