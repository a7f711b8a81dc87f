"""The choices that a designer makes, as one value that every machine is built with. Times are seconds.

The scenario's [policies] and [limits] have the same names; what a field means is said there.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policies:
    ack: str = "after_store"  # or "after_receive"
    sessions: str = "all"  # or "one_per_kind", "single"
    fanout: str = "read"  # or "write"
    delivery: str = "push"  # or "notify"
    receipts: str = "read"  # or "delivered"
    strangers: str = "allow"  # or "refuse"
    presence: str = "off"  # or "friends"
    send_timeout: float = 5.0
    send_attempts: int = 4
    push_timeout: float = 2.0
    push_backoff: float = 2.0
    gap_wait: float = 3.0
    heartbeat: float = 30.0
    heartbeat_timeout: float = 75.0
    reconnect_min: float = 0.5
    reconnect_max: float = 30.0
    storage_timeout: float = 10.0
    login_timeout: float = 10.0
    recall_window: float = 120.0
    edit_window: float = 900.0
    request_lifetime: float = 604_800.0
    # limits
    content_bytes: int = 16_384
    send_queue: int = 1_024
    page: int = 100
    page_bytes: int = 262_144
    open_conversations: int = 100_000
    group_size: int = 5_000
    user_rate: float = 0.0
    user_burst: int = 20
    group_rate: float = 0.0
    group_burst: int = 100
    rooms: int = 100
    room_size: int = 100_000
    room_recent: int = 20
    room_rate: float = 0.0
    room_burst: int = 50
    typing_rate: float = 0.0
    typing_burst: int = 5
    presence_rate: float = 1.0
    presence_burst: int = 5
