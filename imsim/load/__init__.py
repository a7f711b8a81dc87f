"""Load on a live server: Locust plays a scenario's plan over WebSockets, in an open model.

`launch.loadtest` starts Locust as a subprocess and makes a run of its results. `locust -f locustfiles/office.py` does
the same by hand. Read the modules in this order: `target` (the server's address), `transport` (one WebSocket),
`recording` (facts), `devices` (one device), `session` (one run), `users` (Locust's user, options and events), `launch`
(the parent process), `served` (a server in a subprocess).

Neither this package nor `launch` imports Locust: it would monkey-patch the whole process and break a Jupyter kernel.
"""
