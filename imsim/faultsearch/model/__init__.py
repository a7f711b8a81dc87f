"""The reference model: what each user should see, worked out by brute force and independently of the core."""
