"""The schema of an SQLite store: tables, longer queries, and the conversion of rows to and from core objects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from imsim.core.model import ConversationState, Message, Scene

APPLICATION_ID = 0x696D736D  # "imsm", in the file's header
SCHEMA_VERSION = 8
OPEN = 2**63 - 1  # `stays.last` of a membership that has not ended

SCHEMA = f"""
CREATE TABLE conversations (
    key     INTEGER PRIMARY KEY,    -- in the order of creation
    id      TEXT NOT NULL UNIQUE,
    epoch   INTEGER NOT NULL,       -- of the latest writer
    state   TEXT,                   -- JSON
    notified TEXT NOT NULL DEFAULT '[]'  -- JSON: [user, seq] of the latest notes, oldest first
);
CREATE TABLE members (                      -- present and former members
    user          TEXT NOT NULL,
    conversation  INTEGER NOT NULL REFERENCES conversations,
    version       INTEGER NOT NULL DEFAULT 0,  -- this column and the next ones: the user's conversation state
    read_seq      INTEGER NOT NULL DEFAULT 0,
    pinned        INTEGER NOT NULL DEFAULT 0,
    muted         INTEGER NOT NULL DEFAULT 0,
    hidden_seq    INTEGER NOT NULL DEFAULT 0,
    custom        TEXT NOT NULL DEFAULT '',
    peer_read_seq INTEGER NOT NULL DEFAULT 0,
    peer_delivered_seq INTEGER NOT NULL DEFAULT 0,
    blocked       INTEGER NOT NULL DEFAULT 0,
    delivered_seq INTEGER NOT NULL DEFAULT 0,  -- p2p: equals the other user's peer_delivered_seq
    PRIMARY KEY (user, conversation)
) WITHOUT ROWID;
CREATE INDEX members_of ON members (conversation);
CREATE INDEX blocked_in ON members (conversation) WHERE blocked;
CREATE TABLE stays (    -- ranges of entries that a user sees: one per membership, and single entries between them
    user         TEXT NOT NULL,
    conversation INTEGER NOT NULL REFERENCES conversations,
    first        INTEGER NOT NULL,  -- seq of the first entry of the range
    last         INTEGER NOT NULL DEFAULT {OPEN},  -- seq of the last entry of the range
    position     INTEGER NOT NULL,  -- count of members before this one; orders users who joined by the same entry
    PRIMARY KEY (user, conversation, first)
) WITHOUT ROWID;
CREATE INDEX present ON stays (conversation, first, position) WHERE last = {OPEN};
CREATE INDEX past ON stays (conversation, last) WHERE last < {OPEN};
CREATE TABLE messages (
    conversation INTEGER NOT NULL REFERENCES conversations,
    seq          INTEGER NOT NULL,
    id_client    TEXT NOT NULL,
    type         TEXT NOT NULL,
    sender       TEXT NOT NULL,
    recipient    TEXT NOT NULL,     -- Message.to
    time         INTEGER NOT NULL,  -- ms since 1970
    content      TEXT NOT NULL,
    file         TEXT,              -- JSON
    custom       TEXT,
    resend       INTEGER NOT NULL,
    recalled     INTEGER NOT NULL,
    amended      INTEGER NOT NULL,  -- seq of the entry that edited or recalled it last; 0: none
    countable    INTEGER AS (type <> 'notification' AND NOT recalled),
    PRIMARY KEY (conversation, seq),
    UNIQUE (conversation, sender, id_client)
) WITHOUT ROWID;
CREATE TABLE tail (                         -- the latest messages, which are not in `messages` yet
    conversation INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    id_client    TEXT NOT NULL,
    type         TEXT NOT NULL,
    sender       TEXT NOT NULL,
    recipient    TEXT NOT NULL,
    time         INTEGER NOT NULL,
    content      TEXT NOT NULL,
    file         TEXT,
    custom       TEXT,
    resend       INTEGER NOT NULL,
    recalled     INTEGER NOT NULL,
    amended      INTEGER NOT NULL
);
CREATE TABLE earlier (                      -- earlier versions of edited messages
    conversation INTEGER NOT NULL REFERENCES conversations,
    seq          INTEGER NOT NULL,
    amended      INTEGER NOT NULL,  -- messages.amended of that version
    content      TEXT NOT NULL,
    PRIMARY KEY (conversation, seq, amended)
) WITHOUT ROWID;
CREATE TABLE users (
    id             TEXT PRIMARY KEY,
    epoch          INTEGER NOT NULL DEFAULT 0,
    version        INTEGER NOT NULL DEFAULT 0,  -- of the latest change of one of the user's conversation states
    revoked_before REAL NOT NULL DEFAULT 0  -- wall time, seconds since 1970: tokens issued earlier are revoked
) WITHOUT ROWID;
CREATE TABLE inboxes (                      -- fanout = write: the entries that each user receives
    user         TEXT NOT NULL,
    position     INTEGER NOT NULL,  -- 1, 2, 3 ...
    conversation INTEGER NOT NULL REFERENCES conversations,
    seq          INTEGER NOT NULL,
    PRIMARY KEY (user, position)
) WITHOUT ROWID;
CREATE TABLE settings (fanout TEXT NOT NULL, log TEXT NOT NULL);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""

MESSAGE = "seq, id_client, type, sender, recipient, time, content, file, custom, resend, recalled, amended"
VALUES = ",".join("?" * 13)  # conversation, MESSAGE
STATE = "version, read_seq, pinned, muted, hidden_seq, custom, peer_read_seq, peer_delivered_seq, blocked"


#: The seq of the last entry that the member sees: the end of the last stay, or the end of the log if it comes first.
END = (
    "min((SELECT last FROM stays WHERE stays.user = members.user AND stays.conversation = key"
    " ORDER BY first DESC LIMIT 1), coalesce((SELECT max(seq) FROM messages WHERE conversation = key), 0))"
)

#: The seq of the last entry of the member's latest stay that has ended; 0 if there is none.
ENDED = (
    "coalesce((SELECT max(last) FROM stays"
    f" WHERE stays.user = members.user AND stays.conversation = key AND last < {OPEN}), 0)"
)

#: The conversation and seq of each unread message of a user.
UNREAD = f"""
SELECT members.conversation, seq FROM members
    JOIN stays ON stays.user = members.user AND stays.conversation = members.conversation
    JOIN messages ON messages.conversation = members.conversation AND seq BETWEEN max(first, read_seq + 1) AND last
WHERE members.user = ? AND last = {OPEN} AND countable AND sender <> members.user
ORDER BY stays.conversation, first, seq"""

#: The seqs of a user's unread messages in a conversation, up to a given seq. Parameters: user, conversation, seq.
UNREAD_UP_TO = f"""
SELECT seq FROM members
    JOIN stays ON stays.user = members.user AND stays.conversation = members.conversation AND last = {OPEN}
    JOIN messages ON messages.conversation = members.conversation AND seq BETWEEN read_seq + 1 AND ?3
WHERE members.user = ?1 AND members.conversation = ?2 AND seq >= first AND countable AND sender <> members.user
ORDER BY seq"""

#: Entries of a conversation that a user sees after a given seq. Parameters: user, conversation, seq, limit.
AFTER = f"""
SELECT {MESSAGE} FROM stays
    JOIN messages ON messages.conversation = stays.conversation AND seq BETWEEN max(first, ?3 + 1) AND last
WHERE user = ?1 AND stays.conversation = ?2
ORDER BY first, seq LIMIT ?4"""

#: Users who left a conversation after a given seq, and the seq of the entry by which they left.
LEFT_LATELY = f"""
SELECT user, last FROM stays AS ended
WHERE conversation = ? AND last < {OPEN} AND last > ? AND NOT EXISTS (
    SELECT 1 FROM stays
    WHERE stays.user = ended.user AND stays.conversation = ended.conversation AND stays.first > ended.first
)
ORDER BY user"""

#: Entries of a conversation that a user sees in a range, latest first.
#: Parameters: user, conversation, first, last, limit.
RANGE = f"""
SELECT {MESSAGE} FROM stays
    JOIN messages ON messages.conversation = stays.conversation AND seq BETWEEN max(first, ?3) AND min(last, ?4)
WHERE user = ?1 AND stays.conversation = ?2
ORDER BY first DESC, seq DESC LIMIT ?5"""

#: The count of members who have read a message, and of members who see it, both without its sender.
COUNT_READ = """
SELECT coalesce(sum(read_seq >= ?2), 0), count(*) FROM members
WHERE conversation = ?1 AND user <> (SELECT sender FROM messages WHERE conversation = ?1 AND seq = ?2)
    AND EXISTS (
        SELECT 1 FROM stays
        WHERE stays.user = members.user AND stays.conversation = ?1 AND ?2 BETWEEN first AND last
    )"""


def integer(number: int) -> int:
    """Return the nearest number that SQLite can store. Clients may request any integer."""
    return max(-(2**63), min(number, 2**63 - 1))


def state(conversation_id: str, row: Sequence[Any]) -> ConversationState:
    """Return the conversation state in a row of the columns STATE."""
    version, read_seq, pinned, muted, hidden_seq, custom, peer_read_seq, peer_delivered_seq, blocked = row
    return ConversationState(
        conversation_id,
        version,
        read_seq,
        0,
        bool(pinned),
        bool(muted),
        hidden_seq,
        custom,
        peer_read_seq,
        peer_delivered_seq,
        bool(blocked),
    )


def json_or_none(text: str | None) -> dict[str, Any] | None:
    """Return the parsed JSON object, or None for NULL."""
    return None if text is None else json.loads(text)


def row_of(key: int, message: Message) -> tuple[object, ...]:
    """Return the row of the tables `messages` and `tail`: conversation, the columns MESSAGE."""
    return (
        key,
        message.seq,
        message.id_client,
        message.type,
        message.sender,
        message.to,
        message.time,
        message.content,
        None if message.file is None else json.dumps(message.file),
        message.custom,
        message.resend,
        message.recalled,
        message.amended,
    )


def message(conversation_id: str, row: tuple[Any, ...]) -> Message:
    """Return the message in a row of the columns MESSAGE."""
    seq, id_client, type, sender, to, time, content, file, custom, resend, recalled, amended = row
    return Message(
        conversation_id,
        seq,
        f"{conversation_id}:{seq}",
        id_client,
        Scene(conversation_id.partition(":")[0]),
        type,
        sender,
        to,
        time,
        content,
        json_or_none(file),
        custom,
        bool(resend),
        bool(recalled),
        amended,
    )
