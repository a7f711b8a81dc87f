"""The IM core: protocol machines that do no I/O, read no clock and draw no random number.

Every machine has the same shape: it is built with a *port*, is told things (`receive`, `stored`, `handle_timer`, always
with `now`) and acts through the port's methods, which only note what is to be done and never call back. `now` is
monotonic seconds on the node's own clock; wall time is the node's `epoch` + `now`.

The life of a message: `Outbox.add` -> `Gateway._send` -> `Conversations._handle`, `_append` -> `storage.Append` ->
`Conversations._appended`, `_release` (the answer `stored` to its sender) -> `Users._deliver` -> `Pushes.push` ->
`Reader.take` -> the acknowledgement `delivered`. What a device misses of that, `Catchup` fetches: `sync` ->
`storage.Missed` -> `page`, `sync_done`.

Read in this order; what stands behind a machine are the parts that it is made of:

- the words: `model` (the data), `attachments` (what a message's file may be), `frames` (the protocol: what travels
  between a client and its gateway), `backbone` (what travels behind the gateways), `events` (what is told to whoever
  watches), `policies` (what a designer chooses), `exceptions`
- `storage`: what a machine may ask of it, as data; `memory`: what that means, as code
- `conversations`, the writer of each `log`: `rules` (who may say what, and what follows from it), made of `changes`,
  `amendments` (recalls, edits), `groups` and `friends`
- `users`, on the node of each: `online` (sessions, places), `saving`, `unread`
- `hints` (presence, typing) and `chatrooms`, which keep nothing
- `gateway`, the access layer: `admission` (what is let in), `pushes` (what is sent until it is acknowledged)
- `client`, the brain of an SDK: `uplink` (its connection), `catchup` (what it missed), `reader` (what reaches it),
  `inbox` (in which order), `screen` (what there is to see), `outbox` (what it sends), `requests` (what it asks)
- `node`: all but the client, in one process
- for all: `timers`, `limits` (rates), `sizes` (bytes)
"""
