"""A message as it lies in a queue: the envelope around Celery's own message, read and rewritten as bytes."""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Header: when the message was enqueued, in epoch seconds.
ENQUEUED_AT = "aegis_enqueued_at"
# Header: the deaths of workers that this message has seen, each with `worker` and `at` (epoch seconds).
DEATHS = "aegis_deaths"


@dataclass(frozen=True, kw_only=True)
class Death:
    """A worker that was declared dead while it held a message; `at` is epoch seconds, by the clock of Redis."""

    worker: str
    at: float


def read(raw: bytes) -> dict[str, Any] | None:
    """What the envelope holds; None where it is none that Celery could have sent."""
    try:
        found = json.loads(raw)
    except ValueError:
        return None
    return found if isinstance(found, dict) and tag(found) is not None else None


def tag(envelope: Mapping[str, Any]) -> str | None:
    """The name of this one delivery; None where there is none."""
    properties = envelope.get("properties")
    found = properties.get("delivery_tag") if isinstance(properties, Mapping) else None
    return found if isinstance(found, str) else None


def again(raw: bytes, death: Death | None = None) -> bytes:
    """The message for another delivery: marked as redelivered, as Celery does it, under a new name, and with `death` noted.

    A new name, so that what is said of the one delivery cannot be taken for the other's. What nobody can read stays as it is.
    """
    envelope = read(raw)
    if envelope is None:
        return raw
    properties = envelope["properties"]
    properties["delivery_tag"] = str(uuid.uuid4())
    if isinstance(properties.get("delivery_info"), dict):
        properties["delivery_info"]["redelivered"] = True
    headers = envelope.get("headers")
    if isinstance(headers, dict):
        headers["redelivered"] = True
        # A producer that did not say when it enqueued: its deadline begins anew with this delivery, but with no later one.
        headers.setdefault(ENQUEUED_AT, time.time())
        if death is not None:
            headers[DEATHS] = [*deaths(headers), {"worker": death.worker, "at": death.at}]
    return json.dumps(envelope).encode()


def deaths(headers: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The deaths that the headers of a message tell of; anybody may write them."""
    noted = headers.get(DEATHS)
    return [death for death in noted if isinstance(death, Mapping)] if isinstance(noted, list) else []
