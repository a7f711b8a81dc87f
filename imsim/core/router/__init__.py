"""The router role: the single writer of conversations, the sessions and state of users, and chatrooms."""
