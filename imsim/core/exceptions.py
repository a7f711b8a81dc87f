"""The exceptions that imsim raises on purpose.

ImsimError
|-- UsageError          the request is wrong: a bad scenario, a missing file (the CLI exits with 2)
|   |-- BadName         a user, device or group name with characters that are not allowed
|   `-- BadAttachment   a message whose file does not match its type
`-- RunError            the request is right but failed: no server, a refused token (the CLI exits with 1)

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
