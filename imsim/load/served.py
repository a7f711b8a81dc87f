"""A server in a subprocess, for tests, notebooks and scripts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from threading import Timer

from imsim import disk
from imsim.core.exceptions import RunError, UsageError
from imsim.scenario import Scenario

_START_SECONDS = 60.0
_STOP_SECONDS = 15.0


class Served:
    """A running server in a subprocess. `url` is its address; `stop()` or the end of a `with` block stops it.

    Once it has ended, it cannot start again: another `with` block raises UsageError. The server also stops when this
    process ends.

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
        self._errors = Path(self._folder.name) / "errors.log"
        # The server stops at the end of its standard input, so it stops with this process in any case. Its errors go
        # to a file, because it would block on a full pipe that this process does not read.
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [*command, "--key-from-stdin"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
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
        lines = self._errors.read_text(errors="replace").split("\n")
        reason = next((line for line in reversed(lines) if line.strip()), f"exit code {code}").removeprefix("imsim: ")
        self.stop()
        raise (UsageError if code == 2 else RunError)(f"the server did not start: {reason}")

    def stop(self) -> None:
        """Stop the server: it notifies its clients and writes its storage. Repeating the call is harmless."""
        if self._process.poll() is None:
            try:
                self._process.communicate(timeout=_STOP_SECONDS)  # closes its standard input
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.communicate()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None and not stream.closed:
                stream.close()
        self._folder.cleanup()

    def __enter__(self) -> Served:
        if self._process.poll() is not None:
            raise UsageError(f"the server at {self.url} has ended; start another one with imsim.serve()")
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = "ended" if self._process.poll() is not None else "running"
        return f"<imsim server at {self.url}, {state}>"
