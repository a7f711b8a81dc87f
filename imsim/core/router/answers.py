"""Functions that send answers to sessions. A gateway drops an answer to a session that has ended."""

from __future__ import annotations

from typing import Protocol

from imsim.core import frames
from imsim.core.internal_frames import Down, ToGateway, Up
from imsim.core.model import Code, Session


class Port(Protocol):
    """The part of a machine's port that carries answers."""

    def to_gateway(self, gateway: str, frame: ToGateway) -> None: ...


def send(port: Port, session: Session, frame: frames.ToClient) -> None:
    """Send a frame to the device of this session."""
    port.to_gateway(session.gateway, Down((session,), frame))


def done(port: Port, up: Up) -> None:
    """Answer that the request was carried out."""
    frame = up.frame
    send(port, up.session, frames.Done(frame.op, frame.ref, frame.number))


def reject(port: Port, up: Up, code: Code, text: str, retry_after: float = 0.0) -> None:
    """Answer that the request was refused. `retry_after` is in seconds; 0 leaves it open."""
    frame = up.frame
    send(port, up.session, frames.Rejected(frame.op, frame.ref, code, text, retry_after, frame.number))
