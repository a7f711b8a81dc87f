"""The IM core: protocol machines that do no I/O, read no clock and draw no random number.

All machines work in the same way. A machine is built with a *port*. The *shell* is the program around it, such as the
simulation or the live server. It calls the machine's methods (`receive`, `stored`, `handle_timer`) and passes `now` to
each. The machine acts through the methods of the port. These only note the actions and never call the machine back.
`now` is the monotonic time of the node in seconds. Wall time is the node's `epoch` + `now`.

A message takes this path: `Outbox.add` -> `Gateway._send` -> `Conversations._handle`, `_append` -> `storage.Append` ->
`Conversations._appended`, `_release` (the answer `stored` to its sender) -> `Users._deliver` -> `Pushes.push` ->
`Receiver.take` -> the acknowledgement `delivered`. A device that missed messages fetches them with `Sync`: `sync` ->
`storage.Missed` -> `page`, `sync_done`.

Read in this order:

- the data: `model` (users, conversations, messages), `attachments` (of messages), `frames` (the protocol between a
  client and its gateway), `internal_frames` (the frames behind the gateways), `events` (the reports of the machines),
  `changes` (the meaning of a notification in a log), `policies` (the choices of a designer), `exceptions`
- `storage`: `requests` (the requests to storage, as data) and `memory` (the same requests, executed in memory)
- `router`: `conversations`, the single writer of each `log`, with the `rules` (`decision`, `sends`, `groups`,
  `friends`, `amendments`); `users`, the sessions and state of each user (`online`, `states`, `pending_writes`,
  `presence`, `listings` of groups and friends); `chatrooms`; `storages` (the storage node of each request); `answers`
  to devices
- `gateway`, the access layer: each `connection`, `validation` of requests, `retries` (the times at which refused
  clients send again), `pushes` (sent until acknowledged), `marks` (acknowledgements for the routers)
- `client`, the logic of an SDK: its `connection`, `outbox`, `receiver` with `inbox` (order), `conversations` (the local
  view), `sync` (missed messages), `requests`, `rooms` (the chatrooms that it is in), `saved` (the state that survives a
  restart)
- `server`: a gateway and a router in one process
- `placement`: the router that owns each conversation and user
- helpers of all machines: `timers`, `limits` (rates), `sizes` (bytes), `unread` (counts), `empty` (shared empty
  containers)
"""
