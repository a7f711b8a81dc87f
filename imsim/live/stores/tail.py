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

Key = tuple[int, str, str]  # conversation, sender, idClient
Row = tuple[object, ...]  # conversation and the columns schema.MESSAGE


class RepeatedKey(Exception):
    """A message has an idempotency key that an earlier message of its conversation has."""


class Tail:
    """The tail of the database `db`. Its methods belong to the current transaction; after a rollback call `reload`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._keys: set[Key] = set()  # of all messages in the tail
        self._added: dict[Key, Row] = {}  # the messages that are not in the table yet

    def __len__(self) -> int:
        """Return the count of messages in the tail."""
        return len(self._keys)

    def add(self, key: Key, row: Row) -> None:
        """Add a message. `write` compares its key with those in the table `messages`.

        Raises: RepeatedKey if the tail has the key.
        """
        if key in self._keys:
            raise RepeatedKey
        self._keys.add(key)
        self._added[key] = row

    def write(self) -> None:
        """Write the added messages to the file. Raises: RepeatedKey."""
        keys, rows = list(self._added), list(self._added.values())
        for start in range(0, len(rows), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            count = len(rows[part])
            if self._db.execute(_find_any(count), list(chain.from_iterable(keys[part]))).fetchone():
                raise RepeatedKey
            self._db.execute(_insert(count), list(chain.from_iterable(rows[part])))
        self._added.clear()

    def merge(self) -> None:
        """Move all messages to the table `messages`. Raises: RepeatedKey."""
        if self._keys:
            self.write()
            self._db.execute(_MERGE)
            self._db.execute("DELETE FROM tail")
            self._keys.clear()

    def reload(self) -> None:
        """Read the tail from the file."""
        self._added.clear()
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
