"""The name under which this process holds messages, slots and leases: another one at every start."""

import os
import secrets
import socket

_ids: dict[int, str] = {}


def worker_id() -> str:
    """`host:pid:token`, the same for as long as the process runs; a forked child has its own."""
    pid = os.getpid()
    if pid not in _ids:
        _ids[pid] = f"{socket.gethostname()}:{pid}:{secrets.token_hex(3)}"
    return _ids[pid]
