"""Redis servers that are not as they should be: started with options of their own, or too old to exist here."""

import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aegis_workers.local import process, redis_server


@contextmanager
def running(folder: Path, *options: str, port: int | None = None) -> Iterator[str]:
    """A server with these options of its command line; its address."""
    binary = redis_server.find_binary()
    assert binary is not None
    # A server in cluster mode listens 10,000 ports higher too.
    chosen = port or next(found for found in iter(process.free_port, None) if found <= 55_535)
    command = [str(binary.path), "--port", str(chosen), "--bind", "127.0.0.1", "--save", "", *options]
    folder.mkdir(exist_ok=True)
    child = process.start("Redis", command, log=folder / f"{chosen}.log", env=os.environ)
    url = f"redis://127.0.0.1:{chosen}/0"
    try:
        child.wait_ready(lambda: redis_server.unanswered(url) is None, 10)
        yield url
    finally:
        process.stop([child], 5)


@contextmanager
def older_than_6() -> Iterator[str]:
    """What a client meets at a Redis 5: no greeting of protocol 3, and a version; its address."""
    facts = b"redis_version:5.0.14\r\nmaxmemory_policy:noeviction\r\naof_enabled:1\r\ncluster_enabled:0\r\n"

    def answer(command: bytes) -> bytes:
        if command == b"HELLO":
            return b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n"
        return b"$%d\r\n%s\r\n" % (len(facts), facts) if command == b"INFO" else b"+OK\r\n"

    def converse(client: socket.socket) -> None:
        with client:
            while asked := client.recv(65_536):
                client.sendall(b"".join(answer(name.upper()) for name in re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)", asked)))

    def accept(listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # the test is over
                return
            threading.Thread(target=converse, args=(client,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
