"""The tail of an SQLite store: the latest messages, in the order of arrival.

In the table `messages`, a message has a row among those of its conversation, and its idempotency key has one in the
index. So a commit of messages of many conversations writes up to two pages of the file per message. In the table `tail`
they follow each other, and the commit writes a few pages. From there, `merge` moves many messages at a time.

Every statement makes the writer thread wait for the interpreter lock, which the event loop holds most of the time. So
one statement handles many messages.
"""

from __future__ import annotations

import sqlite3
from functools import cache
from itertools import chain

from imsim.live.stores import schema

_AT_ONCE = 64  # messages in one statement; SQLite may be limited to 999 parameters

Row = tuple[object, ...]  # conversation and the columns schema.MESSAGE


class RepeatedKey(Exception):
    """A message has an idempotency key that an earlier message of its conversation has."""


class Tail:
    """The tail of the database `db`. Its methods belong to the current transaction; after a rollback call `reload`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._keys: set[tuple[int, str, str]] = set()  # (conversation, sender, idClient) of all messages in the tail
        self._added: list[Row] = []  # those that are not in the table yet

    def __len__(self) -> int:
        """Return the count of messages in the tail."""
        return len(self._keys)

    def add(self, key: tuple[int, str, str], row: Row) -> None:
        """Add a message. Its key is checked against the table `messages` by the next `write`.

        Raises: RepeatedKey.
        """
        if key in self._keys:
            raise RepeatedKey
        self._keys.add(key)
        self._added.append(row)

    def write(self) -> None:
        """Write the added messages to the file. Raises: RepeatedKey."""
        added = self._added
        for start in range(0, len(added), _AT_ONCE):
            rows = added[start : start + _AT_ONCE]
            keys = [value for row in rows for value in (row[0], row[4], row[2])]
            if self._db.execute(_find_any(len(rows)), keys).fetchone():
                raise RepeatedKey
            self._db.execute(_insert(len(rows)), list(chain.from_iterable(rows)))
        self._added = []

    def merge(self) -> None:
        """Move all messages to the table `messages`. Raises: RepeatedKey."""
        if self._keys:
            self.write()
            self._db.execute(_MERGE)
            self._db.execute("DELETE FROM tail")
            self._keys.clear()

    def reload(self) -> None:
        """Read the tail from the file."""
        self._added = []
        self._keys = set(self._db.execute("SELECT conversation, sender, id_client FROM tail"))


_COLUMNS = f"conversation, {schema.MESSAGE}"
_MERGE = f"INSERT INTO messages ({_COLUMNS}) SELECT {_COLUMNS} FROM tail ORDER BY conversation, seq"


@cache
def _insert(count: int) -> str:
    """Return the statement that adds `count` rows to the tail."""
    return f"INSERT INTO tail ({_COLUMNS}) VALUES {','.join([f'({schema.VALUES})'] * count)}"


@cache
def _find_any(count: int) -> str:
    """Return the query that finds out whether any of `count` keys (conversation, sender, id_client) is used."""
    return (
        f"WITH keys (conversation, sender, id_client) AS (VALUES {','.join(['(?,?,?)'] * count)})"
        " SELECT 1 FROM keys CROSS JOIN messages USING (conversation, sender, id_client) LIMIT 1"
    )
