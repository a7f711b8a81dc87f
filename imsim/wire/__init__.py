"""The wire format: frames as validated JSON text. The core's dataclasses are the only definition of a frame."""

from imsim.wire.codec import BadRequest, UnknownOp, WireError, decode_from_client, decode_from_server, encode

__all__ = ["BadRequest", "UnknownOp", "WireError", "decode_from_client", "decode_from_server", "encode"]
