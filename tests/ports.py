"""Ports for servers of the tests' own."""

import random
import socket

# Above those of Ray's workers, below those that the kernel gives to outgoing connections: nobody takes one meanwhile.
_PORTS = range(20_000, 32_000)
_given: set[int] = set()


def free_port() -> int:
    """One on which nobody listens, and which no other call of this process was given."""
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        if port in _given:
            continue
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        _given.add(port)
        return port
    raise OSError(f"no port from {_PORTS.start} to {_PORTS.stop} is free")
