"""The server's socket."""

import socket

from aegis_workers.admin import serving


def test_a_body_does_not_wait_until_its_head_is_acknowledged() -> None:
    with (
        serving.listening(socket.AF_INET, "127.0.0.1", 0) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
