"""The IM core: protocol machines that do no I/O, read no clock and draw no random number.

Every machine has the same shape: it is built with a *port*, is called (`receive`, `stored`, `handle_timer`, always
with `now`) and acts through the port's methods, which only note what is to be done and never call back. `now` is
monotonic seconds on the node's own clock; wall time is the node's `epoch` + `now`.

The life of a message: `Outbox.add` -> `Gateway._send` -> `Conversations._handle`, `_append` -> `storage.Append` ->
`Conversations._appended`, `_release` (the answer `stored` to its sender) -> `Users._deliver` -> `Pushes.push` ->
`Receiver.take` -> the acknowledgement `delivered`. What a device misses of that, `Sync` fetches: `sync` ->
`storage.Missed` -> `page`, `sync_done`.

Read in this order:

- the words: `model` (the data), `attachments` (what a message carries), `frames` (the protocol between a client and
  its gateway), `internal_frames` (what travels behind the gateways), `events` (what the machines report), `changes`
  (what a notification in a log means), `policies` (what a designer chooses), `exceptions`
- `storage`: `requests` (what a machine may ask, as data) and `memory` (their meaning, as code)
- `router`: `conversations`, the single writer of each `log`, with the `rules` (`decision`, `sends`, `groups`,
  `friends`, `amendments`); `users`, the sessions and state of each user (`online`, `states`, `pending_writes`,
  `presence`); `chatrooms`; `storages` (which of them has each request); `answers` to devices
- `gateway`, the access layer: each `connection`, `validation` (which requests are accepted), `pushes` (sent until
  acknowledged), `marks` (passed on to routers)
- `client`, the logic of an SDK: its `connection`, `outbox`, `receiver` with `inbox` (order), `conversations` (the local
  view), `sync` (what the device missed), `requests`, `rooms` (the chatrooms that it is in)
- `server`: a gateway and a router in one process
- `placement` (which router owns what)
- for all: `timers`, `limits` (rates), `sizes` (bytes), `unread` (counts), `empty` (containers without contents)
"""
