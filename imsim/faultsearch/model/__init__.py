"""The reference model: the expected state of each user, computed by brute force and independently of the core."""
