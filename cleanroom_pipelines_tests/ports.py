"""A port for a server that must have the same one after a restart."""

import random
import socket

# Below the ports that Linux and macOS give to a process that asks for any. From that range another test's server
# could get the port while the first one is down, and answer its clients.
_PORTS = range(15_000, 30_000)


def free_port() -> int:
    """Return a port of loopback that no process listens on, and that none gets by asking for any port."""
    for port in random.SystemRandom().sample(_PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port among a hundred")
