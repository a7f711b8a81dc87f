"""The IM core: protocol machines that do no I/O, read no clock and draw no random number.

Read in this order: `model` (the data), `attachments` (what a message's file may be), `frames` (what travels),
`conversations` (the writer of a log; with it `rules`, `groups`, `friends` and `amendments`, what may be said there),
`users` (sessions, places), `gateway` (connections), `client` (the SDK's brain; with it `uplink`, `catchup`, `reader`,
`outbox`, `requests` and `screen`), `chatrooms` (which keep nothing), `storage` (requests and their meaning).

Every machine has the same shape: it is built with a *port*, is told things (`receive`, `stored`, `handle_timer`, always
with `now`) and acts through the port's methods, which only note what is to be done and never call back. `now` is
monotonic seconds on the node's own clock; wall time is the node's `epoch` + `now`.
"""
