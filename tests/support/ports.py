"""TCP ports for servers that a test starts."""

import collections
import os
import random
import socket

# Below the ports that the kernel gives to clients (ip_local_port_range).
PORTS = range(20000, 32768)
# Descriptors of unix sockets whose abstract names stand for the latest ports of this process. No other
# process can bind the same names.
RESERVATIONS = collections.deque()
MAX_RESERVATIONS = 64


def free_port():
    """Returns a port that nothing listens on, and that other tests of this machine do not get meanwhile."""
    for port in random.sample(PORTS, len(PORTS)):
        reservation = socket.socket(socket.AF_UNIX)
        try:
            reservation.bind(f"\0rgun-test-port-{port}")
            with socket.create_server(("0.0.0.0", port)):
                pass
        except OSError:
            reservation.close()
            continue
        RESERVATIONS.append(reservation.detach())
        if len(RESERVATIONS) > MAX_RESERVATIONS:
            os.close(RESERVATIONS.popleft())
        return port
    raise OSError("no port is free")
