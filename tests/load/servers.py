"""Chat servers of others, which the tests of the adapters start on free ports of the loopback interface.

Each one is a child process that ends with the test process, in any way that this ends. If a server is not installed,
its tests are skipped; `.ci/run` installs all of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

PATIENCE = 20.0  # seconds for a start or an end

# Prints the id of the server's process, and kills the server when the standard input ends: with the test process.
GUARD = """
exec 3<&0
"$@" </dev/null >&2 &  # standard output is for the id
server=$!
echo $server
exec >/dev/null
(cat <&3; kill -KILL $server) 2>/dev/null &
wait $server
"""


class Server:
    """A server in a process of its own.

    Attributes:
        port: the port that the server listens on. It remains the same after a restart.
        pid: the id of its process.
    """

    def __init__(self, command: Sequence[str | Path], port: int, log: Path, environment: dict[str, str] | None) -> None:
        self.port = port
        self._command = ["sh", "-c", GUARD, "sh", *map(str, command)]
        self._environment = {**os.environ, **(environment or {})}
        self._log = log
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        with self._log.open("ab") as log:
            self._guard = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                cwd=self._log.parent,
            )
        assert self._guard.stdout is not None
        self.pid = int(self._guard.stdout.readline())
        end = time.monotonic() + PATIENCE
        while not self._accepts():
            if self._guard.poll() is not None or time.monotonic() > end:
                self.kill()
                pytest.fail(f"{self._command[4]} does not accept connections:\n{self._log.read_text()[-2000:]}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Kill the server without a warning, as a crash would, and wait for its end."""
        self._guard.communicate(timeout=PATIENCE)  # closes its input, and waits for it, which waits for the server

    def pause(self) -> None:
        """Stop the execution of the server. Its connections remain open."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the execution."""
        os.kill(self.pid, signal.SIGCONT)

    def cpu(self) -> float:
        """Return the CPU seconds of the process so far."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(file.read_text().split()[0]) for file in threads) / 1e9

    def _accepts(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as one:
                return one.getsockname() != one.getpeername()  # a socket can connect to itself
        except OSError:
            return False


@contextmanager
def serving(
    command: Sequence[str | Path], port: int, log: Path, environment: dict[str, str] | None = None
) -> Iterator[Server]:
    """Run a server while the context lasts. The log receives what it prints; its folder is the working directory."""
    server = Server(command, port, log, environment)
    try:
        yield server
    finally:
        server.kill()


def program(name: str, package: str) -> str:
    """Return the path of a program. Skip the test if it is not installed."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"needs {name}: run `apt-get install {package}`")
    return path


def free_port() -> int:
    """Return a port that no server uses at this moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextmanager
def mosquitto(folder: Path, *lines: str, users: dict[str, str] | None = None) -> Iterator[Server]:
    """Run a Mosquitto that keeps its state in the folder, and speaks MQTT over WebSocket.

    lines: more lines of its configuration.
    users: the names and passwords of its users; everyone can log in without.
    """
    command = program("mosquitto", "mosquitto")
    port = free_port()
    version = subprocess.run([command, "-h"], capture_output=True, text=True).stdout.split()[2]
    # Before 2.1, a WebSocket listener takes an interface, not an address, and needs another listener beside it.
    address = "127.0.0.1" if tuple(map(int, version.split(".")[:2])) >= (2, 1) else "lo"
    config = [
        f"listener {free_port()} 127.0.0.1",
        f"listener {port} {address}",
        "protocol websockets",
        "persistence true",
        f"persistence_location {folder}/",
        "autosave_on_changes true",  # saves when more than `autosave_interval` messages or subscriptions have changed
        "autosave_interval 1",
        "set_tcp_nodelay true",
        "user root",  # used only if root starts it, which owns the folder
        *lines,
    ]
    if users is None:
        config.append("allow_anonymous true")
    else:
        passwords = folder / "passwords"
        passwords.touch(mode=0o600)
        for name, password in users.items():
            encrypt = program("mosquitto_passwd", "mosquitto")
            subprocess.run([encrypt, "-b", passwords, name, password], check=True, capture_output=True)
        config += ["allow_anonymous false", f"password_file {passwords}"]
    file = folder / "mosquitto.conf"
    file.write_text("\n".join(config) + "\n")
    with serving([command, "-c", file], port, folder / "mosquitto.log") as server:
        yield server


@contextmanager
def prosody(*lines: str) -> Iterator[Server]:
    """Run a Prosody that speaks XMPP over WebSocket at `/xmpp-websocket`, with the domain localhost.

    lines: more lines of its configuration.
    """
    command = program("prosody", "prosody")
    port = free_port()
    with _folder_of("prosody") as (folder, prefix):
        (folder / "prosody.cfg.lua").write_text(
            PROSODY.format(folder=folder, port=port).replace("-- more", "\n".join(lines))
        )
        with serving([*prefix, command, "-F", "--config", folder / "prosody.cfg.lua"], port, folder / "log") as server:
            yield server


@contextmanager
def ejabberd(*lines: str) -> Iterator[Server]:
    """Run an ejabberd that speaks XMPP over WebSocket at `/ws`, with the domain localhost.

    It does not listen for other nodes, so it needs no epmd.

    lines: more lines of its configuration.
    """
    program("ejabberdctl", "ejabberd")
    libraries = next(path.parent for path in Path("/usr/lib").glob("**/ejabberd-*") if (path / "ebin").is_dir())
    port = free_port()
    with _folder_of("ejabberd") as (folder, prefix):
        config = folder / "ejabberd.yml"
        throttle = (
            [] if any(line.startswith("registration_timeout") for line in lines) else ["registration_timeout: infinity"]
        )
        config.write_text(EJABBERD.format(port=port) + "\n".join([*throttle, *lines]) + "\n")
        environment = {
            "EJABBERD_CONFIG_PATH": str(config),
            "EJABBERD_LOG_PATH": str(folder / "ejabberd.log"),
            "ERL_CRASH_DUMP": str(folder / "crash.dump"),
            "ERL_LIBS": str(libraries),
            "HOME": str(folder),
        }
        erl = [program("erl", "erlang-base"), "-noinput", "-mnesia", "dir", f'"{folder}/database"', "-s", "ejabberd"]
        with serving([*prefix, *erl], port, folder / "log", environment) as server:
            yield server


@contextmanager
def _folder_of(user: str) -> Iterator[tuple[Path, list[str]]]:
    """Make a folder for a server that does not run as root. Return it and the prefix of a command for this user."""
    with tempfile.TemporaryDirectory(prefix="imsim-") as name:
        prefix = []
        if os.geteuid() == 0:
            shutil.chown(name, user, user)
            prefix = [program("setpriv", "util-linux"), f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        yield Path(name), prefix


PROSODY = """
daemonize = false
pidfile = "{folder}/prosody.pid"
data_path = "{folder}"
certificates = "{folder}"
log = {{ warn = "*stdout" }}
modules_enabled = {{
  "roster", "saslauth", "disco", "carbons", "smacks", "register", "ping", "websocket", "mam", "offline"
}}
modules_disabled = {{ "s2s", "tls" }}
c2s_ports = {{}}
c2s_direct_tls_ports = {{}}
https_ports = {{}}
http_ports = {{ {port} }}
http_interfaces = {{ "127.0.0.1" }}
allow_registration = true
c2s_require_encryption = false
consider_websocket_secure = true  -- offers SASL PLAIN and registration without TLS
authentication = "internal_plain"
storage = "internal"
network_settings = {{ nagle = false }}
archive_expires_after = "never"
-- more
VirtualHost "localhost"
Component "conference.localhost" "muc"
  modules_enabled = {{ "muc_mam" }}
"""

EJABBERD = """
hosts: [localhost]
loglevel: warning
listen:
  - port: {port}
    ip: "127.0.0.1"
    module: ejabberd_http
    request_handlers:
      /ws: ejabberd_http_ws
auth_method: internal
auth_password_format: plain
shaper_rules:
  max_user_offline_messages: infinity
modules:
  mod_carboncopy: {{}}
  mod_disco: {{}}
  mod_mam:
    default: always
  mod_muc:
    host: conference.localhost
    max_users: 5000
    default_room_options:
      mam: true
  mod_offline:
    access_max_user_messages: max_user_offline_messages
  mod_ping: {{}}
  mod_register:
    ip_access: all
  mod_roster: {{}}
  mod_stream_mgmt: {{}}
"""
