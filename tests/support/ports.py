"""TCP ports for servers that a test starts."""

import socket


def free_port():
    """Returns a port of 127.0.0.1 that nothing listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
