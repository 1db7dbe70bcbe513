"""Imported by a worker, it takes this mechanism away: a message whose task was broken off goes back to its queue."""

from aegis_workers.worker.transport import QoS


def _done(self: QoS, delivery_tag: str, requeue: bool = False) -> None:  # noqa: ARG001, FBT001, FBT002 - kombu's signature
    self.channel.held.done(delivery_tag)


QoS.reject = _done  # type: ignore[method-assign]
