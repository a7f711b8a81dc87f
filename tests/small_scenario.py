"""A small scenario of which the latency of the clients' network is chosen, for tests of budgets."""

SMALL = """
seed = 3
duration = "2s"
warmup = "0s"
drain = "2s"
[population]
users = 10
[workload]
rate = 6
[network.client]
latency = "{latency}"
"""
