"""The networks between clients, gateways, routers and storages."""

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
    """A link between two nodes, with the same properties in both directions. Frames keep their order, as in TCP."""

    latency: SecondsDistribution = Field(description="one-way latency, seconds or a duration")
    jitter: SecondsDistribution = Field(
        default=Constant(value=0.0), description="varying delay that is added to the latency, seconds or a duration"
    )
    loss: float = Field(default=0.0, ge=0, lt=1, description="probability of losing a transmission (0 to below 1)")
    retransmit: PositiveSeconds = Field(
        default=0.2, description="delay that each lost transmission adds, seconds or a duration"
    )
    bandwidth: float | None = Field(
        default=None,
        gt=0,
        le=1e12,
        description="bytes per second in each direction; a frame waits until the previous one is sent. Absent: no"
        " limit",
    )


class ClientLink(Link):
    """A link between a device and its gateway."""

    latency: SecondsDistribution = Field(
        default=Lognormal(median=0.015, p99=0.06), description="one-way latency, seconds or a duration"
    )
    bandwidth: float | None = Field(
        default=None,
        gt=0,
        le=1e12,
        description="bytes per second to the device; a frame waits until the previous one is sent. Absent: no limit",
    )
    upload: float | None = Field(
        default=None, gt=0, le=1e12, description="bytes per second from the device; absent: the same as bandwidth"
    )
    max_retransmits: int | None = Field(
        default=None,
        ge=0,
        description="the connection breaks after this many lost retransmissions of one frame; absent: it never does",
    )


class BackendLink(Link):
    """A link between two servers."""

    latency: SecondsDistribution = Field(
        default=Lognormal(median=0.0003, p99=0.001), description="one-way latency, seconds or a duration"
    )


def _mbit(rate: float) -> float:
    """Convert Mbit/s to bytes per second."""
    return rate * 125_000


def _jitter(median: float, p99: float) -> Lognormal:
    """Return a lognormal jitter whose tail ends at four times its 99th percentile.

    No source reports the rarest values. Without an end, a lognormal with such a distance between its median and its
    99th percentile would reach several seconds, and all later frames would wait as long. The factor of four is assumed.
    """
    return Lognormal(median=median, p99=p99, maximum=4 * p99)


#: The networks of clients, up to the nearest data centre. A latency is half of the round trip (RTT) in the source.
#: Figures without a source are assumed: all jitter except that of wifi, and all largest values of jitter.
#:
#: wired          RTT 28 ms, 5 and 1 Mbit/s: "Cable" of WebPageTest's connectivity.ini; jitter assumed
#: wifi           wired, plus an access point with a hop of 3 ms at the median, about 20 ms at the 90th and 250 ms at
#:                the 99th percentile (Sui and others, "Characterizing and improving WiFi latency in large-scale
#:                operational networks", MobiSys 2016; this distribution has 34 ms at the 90th); assumed loss, after the
#:                retransmissions of the radio
#: 5g             RTT of the radio about half of that of LTE; 166 and 21 Mbit/s: median of Ookla's Speedtest, 3rd
#:                quarter of 2021; jitter and loss assumed
#: 4g             RTT 70 ms, 12 Mbit/s each way: "LTE" of connectivity.ini; Opensignal measured 44 to 66 ms and 21 and
#:                6 Mbit/s in the USA (May 2019), the source of the upload; jitter and loss assumed
#: 3g             RTT 300 ms, 1.6 and 0.768 Mbit/s: "3G" of connectivity.ini; jitter and loss assumed
#: intercontinental   wired, plus an RTT of 160 ms, which cloud regions measure between Frankfurt and Singapore; it is
#:                half as much across the Atlantic (Verizon guarantees 90 ms between London and New York, and at most
#:                0.5 % loss)
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

_PAIRS = ("gateway-router", "router-router", "router-storage")  # the tiers that exchange frames


class Network(Section):
    """The links between nodes. Simulated only: a live run uses the real network."""

    client: ClientLink = Field(default=ClientLink(), description="link of each device, if `clients` is empty")
    clients: dict[str, float] = Field(
        default={},
        description="network -> its share of the users, in any unit, instead of `client`. The networks are "
        + ", ".join(PROFILES)
        + ", and those of `profiles`",
    )
    profiles: dict[str, ClientLink] = Field(default={}, description="custom networks for `clients`, by name")
    backend: BackendLink = Field(default=BackendLink(), description="link between servers")
    links: dict[str, BackendLink] = Field(
        default={}, description=f"links that replace `backend` between two tiers: {', '.join(_PAIRS)}"
    )

    @field_validator("links")
    @classmethod
    def _pairs(cls, links: dict[str, BackendLink]) -> dict[str, BackendLink]:
        for pair in links:
            if pair not in _PAIRS:
                raise FieldError(
                    pair, f"unknown pair of tiers{suggestion(pair, _PAIRS)}; known here: {', '.join(_PAIRS)}"
                )
        return links

    @model_validator(mode="after")
    def _known_networks(self) -> Network:
        known = (*PROFILES, *(name for name in self.profiles if name not in PROFILES))
        for name, share in self.clients.items():
            if name not in known:
                raise FieldError(
                    f"clients.{name}",
                    f"unknown network{suggestion(name, known)}; known here: {', '.join(known)}; or add a"
                    f" table network.profiles.{name}",
                )
            if not 0 <= share <= _MOST_SHARE:
                raise FieldError(f"clients.{name}", f"expected a share from 0 to {_MOST_SHARE:g}, got {share:g}")
        if self.clients and not any(self.clients.values()):
            raise FieldError("clients", "expected at least one network with a share above 0")
        return self

    def between(self, one: str, other: str) -> BackendLink:
        """Return the link between two tiers."""
        pair = "-".join(sorted((one, other), key=TIERS.index))
        return self.links.get(pair, self.backend)

    def in_use(self) -> dict[str, ClientLink]:
        """Return the networks of clients, by name. Without `clients`, it is the link `client`, with an empty name."""
        if not self.clients:
            return {"": self.client}
        names = sorted(name for name, share in self.clients.items() if share)  # the order in the file does not matter
        return {name: self.profiles.get(name) or PROFILES[name] for name in names}

    def of_users(self, seed: int, users: int) -> list[tuple[str, ClientLink]]:
        """Return the name and the link of each user's network."""
        if not self.clients:
            return [("", self.client)] * users
        networks = list(self.in_use().items())
        shares = np.cumsum([self.clients[name] for name, _ in networks])
        drawn = Draws(seed, "network").array(np.arange(users))
        return [networks[n] for n in np.searchsorted(shares[:-1] / shares[-1], drawn, side="right").tolist()]
