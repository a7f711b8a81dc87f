"""Sessions with servers whose protocol a TOML file describes. The adapters `websocket` and `socketio` use them.

`description` reads the file. `templates` writes frames, `paths` finds values in them, and `rules` recognizes them.
`session` is the state machine.
"""
