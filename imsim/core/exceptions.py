"""Everything that imsim raises on purpose.

ImsimError
|-- UsageError          what was asked for cannot be: a bad scenario, a missing file (the CLI exits with 2)
|   |-- BadName         a user, device or group name with other characters
|   `-- BadAttachment   a message whose file is not what its type has
`-- RunError            it was right to ask, but it failed: no server, a refused token (the CLI exits with 1)

Each message is one line that says what is wrong and what to do.
"""

from __future__ import annotations


class ImsimError(Exception):
    """The root of imsim's own errors."""


class UsageError(ImsimError):
    """The request itself is wrong: nothing was started, nothing was lost."""


class BadName(UsageError):
    """A name with characters that names may not have."""


class BadAttachment(UsageError):
    """A message with an attachment that its type does not have, or without the one that it must have."""


class RunError(ImsimError):
    """The request was right, but carrying it out failed."""
