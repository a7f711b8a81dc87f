"""The exceptions that imsim raises on purpose.

ImsimError
|-- UsageError          the request is wrong: a bad scenario, a missing file (the CLI exits with 2)
|   |-- BadName         a user, device or group name with characters that are not allowed
|   `-- BadAttachment   a message whose file does not match its type
`-- RunError            the request is right but failed: no server, a refused token (the CLI exits with 1)
    `-- ClientError     a call of `imsim.Client` failed; it has a code
        |-- SendError   the server did not store a message
        `-- ClientEnded the client has ended, so that no call can succeed

Each message is one line that says what is wrong and what to do.
"""

from __future__ import annotations


class ImsimError(Exception):
    """The root of imsim's own errors."""


class UsageError(ImsimError):
    """The request itself is wrong. Nothing was started, and nothing was lost."""


class BadName(UsageError):
    """A name has characters that are not allowed, or a wrong length."""


class BadAttachment(UsageError):
    """A message has an attachment that does not match its type, or has none although its type requires one."""


class RunError(ImsimError):
    """The request was right, but it failed."""


class ClientError(RunError):
    """A call of `imsim.Client` failed.

    Attributes:
        code: the reason, such as `forbidden` or `timeout`: an error code of the protocol.
        text: the reason in words.
        retry: whether the same call can succeed later.
    """

    def __init__(self, text: str, code: str, *, retry: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.text = text
        self.retry = retry


class SendError(ClientError):
    """The server did not store a message, or a change of a group, a friendship or a message.

    With the code `timeout`, it may be stored all the same. To send it again, pass the `id_client` of this error: the
    server stores it only once.

    Attributes:
        code: the reason, such as `blocked` or `timeout`: an error code of the protocol.
        text: the reason in words.
        retry: whether the same call can succeed later.
        id_client: the id of the message.
    """

    def __init__(self, text: str, code: str, *, retry: bool = False, id_client: str = "") -> None:
        super().__init__(text, code, retry=retry)
        self.id_client = id_client


class ClientEnded(ClientError):
    """The client has ended: the server refused the login or ended the session, or the application closed the client.

    Attributes:
        code: `closed` if the application closed it; otherwise the server's code, such as `kicked` or `token_revoked`.
        text: the reason in words.
        retry: always False; create another client to continue.
    """
