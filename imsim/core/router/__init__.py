"""The router tier: it writes conversations, keeps the sessions and states of users, and runs chatrooms."""
