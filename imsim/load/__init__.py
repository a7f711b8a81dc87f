"""Load on a live server: Locust plays a scenario's plan over WebSockets, in an open model.

`launch.loadtest` starts Locust as a subprocess and makes a run of its results. `locust -f locustfiles/office.py` does
the same by hand. Read the modules in this order:

- The protocol of a kind of server: `adapters`, whose `interface` describes the sessions of devices. `driver` carries
  out what a session returns; `aio` does it under asyncio, `device` under gevent, with `transport` (one WebSocket),
  `exchange` (one HTTP request), `alarm` and `timer_file` (timers). `conformance` checks an adapter.
- A test: `job` (its scenario, server and adapter), `coordinator` (leads the phases of a run), `player` (the devices of
  one Locust process, and their share of the plan). The two exchange small messages; if they are in different
  processes, `workers`, `worker` and `wire` carry them, and `clocks` compares the clocks.
- The parts of a coordinator: `roster` (players, losses and clocks), `population` (devices), `openings` (groups of
  tasks), `flight` (what is under way), `status` (its file, progress), `conclusion` (manifest).
- The parts of a player: `context` (shared by the others), `devices` (users, logins and events), `groups`, `playing`
  (the plan), `added` (users beyond the plan), `tasks` (custom users).
- The records: `recording` (facts), `awaited` (expected deliveries), `extras` (messages beyond the plan), `sampler`
  and `health` (the generator's delays), `collect` (from the files of all processes to a run).
- Locust: `director` (options and events), `test` (a test that it starts), `users`, `im` (the client of custom users),
  `shapes`, `locust_stats`.
- Other processes: `launch` (the parent of Locust), `served` (a server in a subprocess), `reset` (an idle server before
  the next run).

Neither this package nor `launch` imports Locust: it would monkey-patch the whole process and break a Jupyter kernel.
"""
