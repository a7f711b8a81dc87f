"""The gateway role, the access layer: connections, login, heartbeats, and pushes until they are acknowledged."""
