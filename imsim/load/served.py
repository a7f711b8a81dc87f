"""A server in a subprocess, for tests, notebooks and scripts."""

from __future__ import annotations

import logging
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Thread, Timer

from imsim import disk
from imsim.core.exceptions import RunError, UsageError
from imsim.scenario import Scenario

LOG = logging.getLogger("imsim.serve")

_START_SECONDS = 60.0
_STOP_SECONDS = 15.0


class Served:
    """A running server in a subprocess. `url` is its address; `stop()` or the end of a `with` block stops it.

    Once it has ended, it cannot start again: another `with` block raises UsageError. The server also stops when this
    process ends. The lines of its log go to the logger `imsim.serve` of this process.

    Attributes:
        url: the address, ws://host:port.

    Example:
        >>> with imsim.serve("office") as server:
        ...     server.url.startswith("ws://127.0.0.1:")
        True
    """

    def __init__(self, scenario: Scenario, host: str, port: int, db: str | Path | None, key: str) -> None:
        self._folder = disk.temporary_folder("imsim-serve-")
        file = Path(self._folder.name) / f"{scenario.name}.toml"
        disk.write(file, scenario.to_toml().encode())
        command = [sys.executable, "-m", "imsim", "serve", str(file), "--host", host, "--port", str(port)]
        if db is not None:
            command += ["--db", str(db)]
        # The server stops at the end of its standard input, so it stops with this process in any case.
        self._process = subprocess.Popen(
            [*command, "--key-from-stdin"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._error = ""  # the last line of the server's log
        self._reader = Thread(target=self._pass_on, name="imsim-serve-log", daemon=True)
        self._reader.start()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(key + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the server has refused to start; the code below reads the reason
        self.url = ""
        timeout = Timer(_START_SECONDS, self._process.kill)
        timeout.start()
        try:
            for line in self._process.stdout:
                if line.startswith("listening on "):
                    self.url = line.split()[2]
                    return
        finally:
            timeout.cancel()
        code = self._process.wait()
        self.stop()
        reason = self._error.removeprefix("imsim: ") or f"exit code {code}"
        raise (UsageError if code == 2 else RunError)(f"the server did not start: {reason}")

    def stop(self) -> None:
        """Stop the server: it notifies its clients and writes its storage. Repeating the call is harmless."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        self._folder.cleanup()

    def _pass_on(self) -> None:
        """Log what the server writes to its standard error, except the error with which it ends."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            if line.strip():
                self._error = line.rstrip()
                if not line.startswith("imsim: "):
                    LOG.warning("%s", self._error)

    def __enter__(self) -> Served:
        if self._process.poll() is not None:
            raise UsageError(f"the server at {self.url} has ended; start another one with imsim.serve()")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "ended" if self._process.poll() is not None else "running"
        return f"<imsim server at {self.url}, {state}>"
