"""The metrics of a server in the formats of Prometheus and OpenMetrics.

A scrape takes a few milliseconds in all. It is done in slices, between which the event loop has time for other work,
and a flood of scrapes gets only a share of the server's time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from itertools import accumulate, islice
from typing import Any

from prometheus_client import GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from imsim.live.metrics import BOUNDS, Histogram, Metrics

#: The parts of the length of a queue, which may be many: one for each connection or conversation.
Lengths = Mapping[str, Iterable[int]]

_SLICE = 1_000  # parts that are added before other work has its turn
_SHARE = 0.1  # of the time that scrapes may take
_LONGEST_WAIT = 1.0  # seconds between two scrapes, at most
VERSION = version("imsim")
_END = b"# EOF\n"
_LE = [*map(floatToGoString, BOUNDS), "+Inf"]


class Exposition(Collector):
    """The source of the metrics in a registry of its own, so that several servers in one process do not collide.

    `connections` returns the count of connections by state, and `queues` the parts of the length of each queue.
    `problems` returns whether each problem exists, and `is_ready` whether the server is ready, as far as is known.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        connections: Callable[[], Mapping[str, int]],
        queues: Callable[[], Lengths],
        problems: Callable[[], Mapping[str, bool]],
        is_ready: Callable[[], bool],
    ) -> None:
        self._metrics = metrics
        self._connections = connections
        self._queues = queues
        self._problems = problems
        self._is_ready = is_ready
        self._lengths: dict[str, int] | None = None  # only during a scrape
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._waiting: dict[str, asyncio.Task[bytes]] = {}  # scrapes that have not begun, by format
        self._lock = asyncio.Lock()
        self._next_at = 0.0  # when the next scrape may begin

    # --- scrapes ----------------------------------------------------------------------------------------------------

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their content type. `accept` is the HTTP header of that name.

        Requests that arrive before the scrape begins share its result.
        """
        try:
            _, content_type = choose_encoder(accept)
        except Exception:  # the library raises several errors for a version that is not a number
            _, content_type = choose_encoder("")
        # All names are valid in every version of a format, so the format has one text.
        format = content_type.partition(";")[0]
        task = self._waiting.get(format)
        if task is None:
            task = self._waiting[format] = asyncio.get_running_loop().create_task(self._scrape(format))
        return await asyncio.shield(task), content_type

    async def _scrape(self, format: str) -> bytes:
        async with self._lock:
            await asyncio.sleep(self._next_at - time.monotonic())
            del self._waiting[format]
            encode, _ = choose_encoder(format)
            busy, begun = 0.0, time.perf_counter()
            texts = []
            for text in self._slices(encode):
                texts.append(text.removesuffix(_END))
                busy += time.perf_counter() - begun
                await asyncio.sleep(0)
                begun = time.perf_counter()
            self._next_at = time.monotonic() + min(busy / _SHARE, _LONGEST_WAIT)
        return b"".join(texts) + (_END if format.startswith("application/openmetrics") else b"")

    def _slices(self, encode: Callable[[Collector], bytes]) -> Iterator[bytes]:
        """Yield parts of the text, which may be empty, after a short time each."""
        lengths = {}
        for queue, parts in self._queues().items():
            lengths[queue] = 0
            remaining = iter(parts)
            while part := list(islice(remaining, _SLICE)):
                lengths[queue] += sum(part)
                yield b""
        self._lengths = lengths
        for family in self.registry.collect():
            yield encode(_Only(family))
        self._lengths = None

    # --- families ---------------------------------------------------------------------------------------------------

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> list[Metric]:
        return list(self._families())  # at once, so that the numbers belong together

    def _families(self) -> Iterator[Metric]:
        metrics = self._metrics
        metrics.sort()
        yield InfoMetricFamily("imsim", "The version of imsim.", {"version": VERSION})
        yield GaugeMetricFamily(
            "imsim_ready", "Whether the server can serve a login and store a message, as last observed.",
            float(self._is_ready()),
        )  # fmt: skip
        yield _gauges("imsim_problem", "Whether the server has this problem (1) or not (0).", "problem",
                      self._problems())  # fmt: skip
        yield from self._of_connections(metrics)
        yield from self._of_frames(metrics)
        yield from self._of_messages(metrics)
        yield from self._of_queues()
        yield _histogram("imsim_event_loop_lag_seconds", "How late the event loop runs a timer.", metrics.loop_lag)

    def _of_connections(self, metrics: Metrics) -> Iterator[Metric]:
        yield _gauges("imsim_connections", "Open connections, by whether the client is logged in.", "state",
                      self._connections())  # fmt: skip
        yield _counter("imsim_connections_opened", "WebSockets that were opened.", metrics.opened)
        yield _counters("imsim_disconnects", "WebSockets that ended, by the code that the server sent, or client_left.",
                        ("reason",), metrics.disconnects)  # fmt: skip
        yield _counters("imsim_logins", "Logins: ok, or the code with which the server ended the connection before it.",
                        ("result",), metrics.logins)  # fmt: skip
        yield _counter("imsim_tokens_issued", "Tokens that the server issued.", metrics.tokens_issued)
        yield _counters("imsim_http_requests", "Answers over HTTP, except those to WebSocket handshakes.",
                        ("path", "status"), metrics.http)  # fmt: skip
        yield _counter("imsim_accept_failures", "Connections that were not accepted for lack of a file descriptor.",
                       metrics.failures["accept"])  # fmt: skip
        yield _counter("imsim_tls_handshake_failures", "TLS handshakes that failed.", metrics.failures["handshake"])

    def _of_frames(self, metrics: Metrics) -> Iterator[Metric]:
        frames = CounterMetricFamily(
            "imsim_frames", "Frames by op. `invalid` counts messages that are not frames.", labels=("direction", "op")
        )
        for direction, counts in (("received", metrics.received), ("sent", metrics.sent)):
            for op, count in counts.items():
                frames.add_metric((direction, op), count)
        yield frames
        yield _counters("imsim_rejected", "Requests that the server rejected, by code.", ("code",), metrics.rejected)

    def _of_messages(self, metrics: Metrics) -> Iterator[Metric]:
        yield _counter("imsim_messages_stored", "Messages that were stored.", sum(metrics.store.counts))
        yield _counter("imsim_chatroom_messages", "Messages that chatrooms accepted.", metrics.chatroom_messages)
        yield _counter("imsim_sends_repeated", "Sends with resend = true.", metrics.repeated_sends)
        yield _counter("imsim_pushes_repeated", "Repetitions of pushes of messages.", metrics.repeated_pushes)
        yield _counter("imsim_chatroom_pushes_shed", "Pushes of chatroom messages that were left out.", metrics.shed)
        yield _histogram("imsim_store_seconds", "Time from the receipt of a send until its message is stored.",
                         metrics.store)  # fmt: skip
        yield _histogram("imsim_delivery_seconds", "Time from the first push of a message to its `delivered`.",
                         metrics.delivery)  # fmt: skip
        yield _counter("imsim_storage_failures", "Storage requests that failed.", metrics.storage_failures)
        yield _counter("imsim_storage_overloads", "Storage requests that failed because the queue was full.",
                       metrics.storage_overloads)  # fmt: skip

    def _of_queues(self) -> Iterator[Metric]:
        lengths = self._lengths
        if lengths is None:
            lengths = {queue: sum(parts) for queue, parts in self._queues().items()}
        lengths = dict(lengths)
        bytes_waiting = lengths.pop("send_bytes")
        yield _gauges("imsim_queue_length", "Elements that wait in a queue, at the time of the scrape.", "queue",
                      lengths)  # fmt: skip
        yield GaugeMetricFamily("imsim_send_queue_bytes", "Bytes that wait for clients to read them.", bytes_waiting)


class _Only(Collector):
    """A collector of one metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


def _counter(name: str, text: str, count: int) -> Metric:
    return CounterMetricFamily(name, text, count)


def _counters(name: str, text: str, labels: tuple[str, ...], counts: Mapping[Any, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in counts.items():
        family.add_metric([str(value) for value in (values if isinstance(values, tuple) else (values,))], count)
    return family


def _gauges(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), float(number))
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(name, text)
    family.add_metric((), list(zip(_LE, accumulate(histogram.counts), strict=True)), histogram.sum)
    return family
