"""The description of a chat server's protocol: the tables of its TOML file, and how they are read and checked."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from imsim.core.exceptions import UsageError
from imsim.load.adapters.described import paths
from imsim.load.adapters.interface import Feature
from imsim.scenario.errors import FieldError, explain
from imsim.scenario.quantities import PositiveSeconds, shown
from imsim.scenario.sections import Section

ScalarValue = str | int | float | bool


def _path(text: str) -> str:
    paths.parsed(text)
    return text


def _items_path(text: str) -> str:
    paths.parsed(text, items=True)
    return text


def _document(value: object) -> object:
    """Return the document of a template: a table or a list, or a text that contains JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(
                f'expected JSON, got {shown(value)} ({error}); placeholders are in strings: {{"id": "{{id}}"}}'
            ) from None
    if not isinstance(value, dict | list):
        raise ValueError(f"expected a JSON object or list, got {shown(value)}")
    return value


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _conditions(conditions: dict[str, Any]) -> dict[str, Any]:
    for path, expected in conditions.items():
        try:
            paths.parsed(path)
        except paths.PathError as error:
            raise ValueError(str(error)) from None
        if isinstance(expected, dict):
            if list(expected) not in (["not"], ["exists"]):
                raise FieldError(path, "expected a value, a list of values, {not = value} or {exists = true}")
            if "exists" in expected and not isinstance(expected["exists"], bool):
                raise FieldError(f"{path}.exists", f"expected true or false, got {shown(expected['exists'])}")
            expected = expected.get("not", "")
        for one in _listed(expected):  # type: ignore[attr-defined]  # it is a list
            if not isinstance(one, ScalarValue):
                raise FieldError(path, f"expected a text, a number, true or false, got {shown(one)}")
    return conditions


DocumentPath = Annotated[str, AfterValidator(_path)]
ItemsPath = Annotated[str, AfterValidator(_items_path)]
Document = Annotated[Any, BeforeValidator(_document)]
Conditions = Annotated[dict[str, Any], AfterValidator(_conditions)]
Keep = dict[str, DocumentPath]


class HttpRequest(Section):
    """An HTTP request."""

    method: str = Field(default="GET", min_length=1, description="the method")
    url: str = Field(min_length=1, description="the address; `{http}` is the URL of the run with http instead of ws")
    headers: dict[str, str] = Field(default={}, description="its headers")
    body: Document = Field(default=None, description="the JSON in its body")
    accept: list[int] = Field(default=[], description="the status codes of success; by default 200 to 299")
    keep: Keep = Field(default={}, description="placeholders for values of the answer: name → path")


class Connect(Section):
    """The connection."""

    url: str = Field(default="{url}", min_length=1, description="the address of the WebSocket")
    subprotocols: list[str] = Field(default=[], description="the subprotocols that the client offers")
    headers: dict[str, str] = Field(default={}, description="headers of the handshake")
    frames: Literal["one", "lines"] = Field(
        default="one", description="`one`: a frame is one JSON document; `lines`: each line of a frame is one"
    )
    request: Annotated[list[HttpRequest], BeforeValidator(_listed)] = Field(
        default=[],
        description="HTTP requests before the first connection, in order; a registration or a login, for example",
    )


class Match(Section):
    """A matcher: it recognizes frames."""

    when: Conditions = Field(
        default={},
        description="path → value; all must hold. A list of values: one of them. `{not = value}`, `{exists = true}`",
    )


class ItemsMatch(Match):
    """A matcher that can look into a list."""

    each: ItemsPath | None = Field(
        default=None,
        description="the frame has a list at this path; the other paths (not those of `when`) begin at its elements",
    )
    where: Conditions = Field(default={}, description="conditions for each element of `each`, as in `when`")

    @model_validator(mode="after")
    def _where_needs_each(self) -> Self:
        if self.where and self.each is None:
            raise FieldError("where", "needs 'each'; conditions of the whole frame are in 'when'")
        return self


class MessageMatch(ItemsMatch):
    """A matcher of answers about a message. It names the message by its id, a request number, or the order."""

    id: DocumentPath | None = Field(default=None, description="path of the message id")
    n: DocumentPath | None = Field(default=None, description="path of the request number, `{n}` in `send`")
    in_order: bool = Field(
        default=False, description="the server answers the messages of a connection in order, without an id"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.id is not None) + (self.n is not None) + self.in_order != 1:
            raise FieldError("id", "expected one of 'id', 'n' and 'in_order = true', which says which message it is")
        return self


class JoinMatch(Match):
    """A matcher of answers about a join. `{name}` in `when` is the group or chatroom that the answer is about."""

    n: DocumentPath | None = Field(
        default=None,
        description="path of the request number, `{n}` in the request; without it and without `{name}`, answers come"
        " in the order of the requests",
    )


class Refusal(Match):
    """A matcher of refusals."""

    reason: DocumentPath | None = Field(default=None, description="path of the reason, for the report")


class JoinRefusal(JoinMatch):
    """A matcher of refusals of a join."""

    reason: DocumentPath | None = Field(default=None, description="path of the reason, for the report")


class Answer(Match):
    """A matcher of the answer to a step of the login."""

    keep: Keep = Field(default={}, description="placeholders for values of the answer: name → path")


class Login(Section):
    """A step of the login."""

    send: Document = Field(default=None, description="the frame to send; absent: only wait for `answer`")
    answer: Annotated[list[Answer], BeforeValidator(_listed)] = Field(
        default=[], description="the answer that ends the step; absent: the step ends once its frame is sent"
    )
    refused: Annotated[list[Refusal], BeforeValidator(_listed)] = Field(
        default=[], description="the refusal; the device does not connect again"
    )


class Join(Section):
    """The use of groups or of chatrooms, before the clock starts."""

    request: HttpRequest | None = Field(
        default=None, description="the HTTP request that creates it; one device of the run makes it"
    )
    create: Document = Field(default=None, description="the frame that creates it; one device of the run sends it")
    created: Annotated[list[JoinMatch], BeforeValidator(_listed)] = Field(
        default=[], description="the answer to `create`; absent: it is done once it is sent"
    )
    enter: Document = Field(default=None, description="the frame that each device sends to enter")
    entered: Annotated[list[JoinMatch], BeforeValidator(_listed)] = Field(
        default=[], description="the answer to `enter`; absent: it is done once it is sent"
    )
    refused: Annotated[list[JoinRefusal], BeforeValidator(_listed)] = Field(
        default=[], description="the refusal of `create` or `enter`"
    )
    again: bool = Field(default=True, description="whether a device sends `enter` again after each later login")

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.request is not None and self.create is not None:
            raise FieldError("request", "expected 'request' or 'create', got both")
        for answer, request in (("created", "create"), ("entered", "enter")):
            if getattr(self, answer) and getattr(self, request) is None:
                raise FieldError(answer, f"needs '{request}'")
        return self


class Joins(Section):
    """The joins of groups and chatrooms."""

    group: Join = Field(default=Join(), description="groups")
    chatroom: Join = Field(default=Join(), description="chatrooms")


class Send(Section):
    """The frames that send a message."""

    p2p: Document = Field(default=None, description="a message to a user")
    group: Document = Field(default=None, description="a message to a group")
    chatroom: Document = Field(default=None, description="a message to a chatroom")
    resend: bool = Field(
        default=False,
        description="whether a message without an answer is sent again; only for servers that recognize its id."
        " Otherwise it has failed after all timeouts, or with the connection",
    )

    @model_validator(mode="after")
    def _any(self) -> Self:
        if self.p2p is None and self.group is None and self.chatroom is None:
            raise FieldError("p2p", "expected at least one of 'p2p', 'group' and 'chatroom'")
        return self


class Failure(MessageMatch):
    """A matcher of refusals of a message."""

    code: DocumentPath | None = Field(default=None, description="path of the code")
    text: DocumentPath | None = Field(default=None, description="path of the reason in words")


class Delivery(ItemsMatch):
    """A matcher of messages for this device."""

    id: DocumentPath = Field(description="path of the message id; `content.$id` if the text begins with it")
    scene: Literal["p2p", "group", "chatroom"] | None = Field(
        default=None, description="the kind of conversation that this matcher recognizes"
    )
    to: DocumentPath | None = Field(
        default=None,
        description="path of the group or chatroom; in p2p of the recipient (absent: the user of this device)",
    )
    sender: DocumentPath | None = Field(
        default=None, description="path of the user who sent the message, for tasks of custom users"
    )
    text: DocumentPath | None = Field(
        default=None, description="path of the text, for such tasks; `content.$rest` if the text begins with the id"
    )
    synced: bool = Field(default=False, description="whether these are messages that the device had missed")
    keep: Keep = Field(default={}, description="placeholders for `read.send`: name → path")
    last: Keep = Field(
        default={},
        description="placeholders of `initial` that get the values of each message: name → path. So a login can contain"
        " the position of the last message",
    )

    @model_validator(mode="after")
    def _names_conversation(self) -> Self:
        if self.scene in ("group", "chatroom") and self.to is None:
            raise FieldError("to", f"missing; 'scene = \"{self.scene}\"' needs the path of its name")
        if self.scene is None and self.to is not None:
            raise FieldError("scene", "missing; 'to' needs it")
        return self


class Read(Section):
    """Receipts: the device reports that its user has read a message."""

    send: Document = Field(description="the frame that reports it")
    answer: Annotated[list[MessageMatch], BeforeValidator(_listed), Field(min_length=1)] = Field(
        description="the answer of the server"
    )


class Reply(ItemsMatch):
    """An answer to a frame of the server."""

    send: Document = Field(
        description="the frame to send; `{frame.PATH}` is a value of the frame (of the element, with each)"
    )


class Keepalive(Section):
    """The frames that keep a silent connection open."""

    send: Document = Field(default=None, description="the frame to send")
    every: PositiveSeconds = Field(default=30.0, description="the time between two of them")
    timeout: PositiveSeconds | None = Field(
        default=None, description="the connection is lost if the server is silent for this long; absent: never"
    )


class SocketIO(Section):
    """The connection to a namespace of a Socket.IO server. Only for the adapter `socketio`."""

    namespace: str = Field(default="/", pattern="^/[^,?]*$", description="the namespace")
    auth: Document = Field(default=None, description="the `auth` of the connection")


class Description(Section):
    """A chat server's protocol."""

    connect: Connect = Field(default=Connect(), description="the connection")
    login: Annotated[list[Login], BeforeValidator(_listed)] = Field(
        default=[], description="the steps of the login; without them, a connected device is logged in"
    )
    join: Joins = Field(default=Joins(), description="groups and chatrooms")
    send: Send = Field(description="messages")
    received: Annotated[list[MessageMatch], BeforeValidator(_listed)] = Field(
        default=[], description="the server has the message, but promises no more yet"
    )
    acked: Annotated[list[MessageMatch], BeforeValidator(_listed)] = Field(
        default=[], description="the server has the message: its strongest promise"
    )
    failed: Annotated[list[Failure], BeforeValidator(_listed)] = Field(
        default=[], description="the server refuses the message"
    )
    delivered: Annotated[list[Delivery], BeforeValidator(_listed), Field(min_length=1)] = Field(
        description="a message for the device"
    )
    reply: Annotated[list[Reply], BeforeValidator(_listed)] = Field(
        default=[], description="answers to frames of the server, such as its pings and its messages"
    )
    read: Read | None = Field(default=None, description="receipts")
    closed: Annotated[list[Refusal], BeforeValidator(_listed)] = Field(
        default=[], description="the server ends the session; the device does not connect again"
    )
    keepalive: Keepalive = Field(default=Keepalive(), description="pings")
    socketio: SocketIO | None = Field(default=None, description="the namespace of a Socket.IO server")
    initial: dict[str, ScalarValue] = Field(
        default={}, description="placeholders that `delivered.last` changes, with their first values"
    )
    features: list[Literal["own devices", "resume", "membership"]] = Field(
        default=[],
        description="what the server offers and the other tables cannot show: `own devices`, `resume`, `membership`",
    )

    @property
    def offered(self) -> frozenset[Feature]:
        """The features that follow from the tables."""
        return frozenset(
            feature
            for feature, is_offered in {
                Feature.ACK: self.acked,
                Feature.GROUPS: self.send.group is not None,
                Feature.CHATROOMS: self.send.chatroom is not None,
                Feature.RECEIPTS: self.read is not None,
                Feature.OWN_DEVICES: "own devices" in self.features,
                Feature.RESUME: "resume" in self.features,
                Feature.MEMBERSHIP: "membership" in self.features,
            }.items()
            if is_offered
        )


def read(file: str) -> Description:
    """Read a description.

    Raises: UsageError if the file cannot be read or is not a description. There is one line for each problem.
    """
    try:
        text = Path(file).read_text(encoding="utf-8-sig")  # editors may add a byte order mark
    except FileNotFoundError:
        raise UsageError(f"option file: there is no file {file}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file}: not a TOML file: it is not UTF-8 text") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        raise UsageError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse(text, file)


def parse(text: str, file: str) -> Description:
    """Return the description in a TOML text. `file` is its name in errors.

    Raises: UsageError if the text is not TOML or not a description.
    """
    try:
        fields = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:  # the error's text ends with the line and column
        raise UsageError(f"{file}: not valid TOML: {error}") from None
    try:
        return Description(**fields)
    except ValidationError as error:
        lines = (_as_in_file(line, fields) for line in explain(error, Description))
        raise UsageError("\n".join(f"{file}: {line}" for line in lines)) from None


def _as_in_file(line: str, fields: Any) -> str:
    """Remove the numbers of tables that are not in a list in the file: `acked.0.id: ...` becomes `acked.id: ...`."""
    path, colon, text = line.partition(": ")
    kept, value = [], fields
    for step in path.split("."):
        if step.isdecimal() and not isinstance(value, list):
            continue
        kept.append(step)
        try:
            value = value[int(step) if isinstance(value, list) else step]
        except (LookupError, TypeError, ValueError):
            value = None
    return ".".join(kept) + colon + text
