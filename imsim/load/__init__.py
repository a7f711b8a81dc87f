"""Load on a live server: Locust plays a scenario's plan over WebSockets, open-model.

`launch.loadtest` starts Locust as a subprocess and reads what it left behind; `locust -f locustfiles/office.py` is
the same by hand. Read in this order: `target` (the server's address), `transport` (one WebSocket), `recording` (facts),
`devices` (one device), `session` (one run), `users` (Locust's user, options and events), `launch` (the parent's side),
`served` (a server in a subprocess).

Neither this package nor `launch` imports Locust, which would monkey-patch the whole process and break a Jupyter kernel.
"""
