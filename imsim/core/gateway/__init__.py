"""The gateway role, the access layer: connections, login, heartbeats, and pushes with retry until acknowledged."""
