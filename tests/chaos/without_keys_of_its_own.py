"""Imported by a worker, it takes this mechanism away: what it holds lies under keys of its own, and it looks after no others.

What is left is kombu's way: one set of keys for all applications, and whatever lies there for too long is given out again.
"""

from kombu.transport import redis as kombu_redis

from aegis_workers import app
from aegis_workers.worker.transport import QoS

KOMBUS = (
    "_remove_from_indices",
    "pipe_or_acquire",
    "restore_by_tag",
    "restore_visible",
    "unacked_index_key",
    "unacked_key",
    "unacked_mutex_expire",
    "unacked_mutex_key",
    "visibility_timeout",
)

for name in KOMBUS:
    setattr(QoS, name, vars(kombu_redis.QoS)[name])
QoS._vrestore_count = 0  # type: ignore[attr-defined]
app.conf.broker_transport_options = {
    **app.conf.broker_transport_options,
    "visibility_timeout": 1,
    "unacked_restore_interval": 1,
    "unacked_restore_throttle": 1,
    "unacked_key": "unacked",
    "unacked_index_key": "unacked_index",
    "unacked_mutex_key": "unacked_mutex",
}
