"""The client role: the logic of an SDK, as a machine."""
