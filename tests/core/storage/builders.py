"""Short functions for requests to a storage, and a group whose log is written with effects."""

from __future__ import annotations

from core.builders import AB, TEAM, message, session

from imsim.core import storage

FANOUTS = ("read", "write")


def opened(store, conversation=AB, founders=("alice", "bob")):
    return store.execute(storage.OpenConversation(conversation, founders))


def append(store, epoch, one, shown=0):
    """Append a message. Returns the result with `inbox_rows` set to 0, because few tests check that number."""
    result = store.execute(storage.Append(epoch, one, shown))
    if isinstance(result, storage.Appended):
        result.inbox_rows = 0
    return result


def missed(store, user, cursors=None, limit=100, inbox=0):
    return store.execute(storage.Missed(session(user), cursors or {}, limit, inbox=inbox))


def states(store, user):
    """Return (state, unread seqs) by conversation."""
    state = store.execute(storage.OpenUser(user))
    return {found.conversation_id: (found, unread) for found, unread, *_ in state.states}


def read_seq(store, user):
    return states(store, user)[AB][0].read_seq


def save(store, user, read_seq=0, conversation=AB, **settings):
    """Save a state. Returns the states in the answer, by user."""
    return dict(store.execute(storage.SaveState(user, conversation, read_seq, **settings)).states)


def read_all(store, user, cursors=None, limit=100, inbox=0):
    """Read all pages. Returns (conversation, seq) of each message, the cursors after them, and the number of pages."""
    cursors, got, pages = dict(cursors or {}), [], 0
    while True:
        page = missed(store, user, cursors, limit, inbox)
        got += [(one.conversation_id, one.seq) for one in page.messages]
        assert len(page.messages) <= limit
        cursors |= page.cursors
        inbox = page.inbox
        pages += 1
        if not page.more:
            return got, cursors, pages
        assert page.messages
        assert (page.states, page.version) == ((), 0)


def find_range(store, first, last, limit=100, user="bob", conversation=AB):
    page = store.execute(storage.Range(user, conversation, first, last, limit))
    return None if page is None else ([one.seq for one in page.messages], page.more)


def read_log(store, user, conversation=TEAM):
    return [one for one in missed(store, user, limit=1_000).messages if one.conversation_id == conversation]


def note(to="carol", id_client="n1", **fields):
    log = f"system:{to}"
    return message(0, id="", conversation_id=log, id_client=id_client, scene="system", to=to, **fields)


class Team:
    """The writer of the group TEAM."""

    def __init__(self, store, members=("alice", "bob")):
        self.store, self.seq = store, 0
        self.epoch = opened(store, TEAM, ()).epoch
        self.add(joined=members)

    def add(self, sender="alice", shown=0, message_=None, **effects):
        one = message_ or message(self.seq + 1, conversation_id=TEAM, sender=sender)
        result = self.store.execute(storage.Append(self.epoch, one, shown, storage.Effects(**effects)))
        if isinstance(result, storage.Appended):
            self.seq += 1
        return result

    def seen(self, user):
        return [one.seq for one in read_log(self.store, user)]
