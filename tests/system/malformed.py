"""Messages that no careful producer sends: a worker must outlive each of them."""

import json
import uuid
from collections.abc import Mapping
from typing import Any

from installation import Installation

# What is wrong, and where: headers, body (JSON unless it is text) or content type. `MARK` is replaced by what a test looks for.
KINDS: Mapping[str, Mapping[str, Any]] = {
    "a body that is no JSON": {"body": "MARK {"},
    "a body that is an object": {"body": {"text": "MARK"}},
    "a body that is a number": {"body": 5},
    "a body that is a string": {"body": '"MARK"'},
    "arguments that are text": {"body": ["MARK", {}, {}]},
    "named arguments that are text": {"body": [[], "MARK", {}]},
    "an argument that no task has": {"body": [[], {"MARK": 1}, {}]},
    "a moment to start at that is none": {"headers": {"eta": "MARK"}},
    "a moment to expire at that is none": {"headers": {"expires": "MARK"}},
    "a moment to expire at that is an object": {"headers": {"expires": {"MARK": 1}}},
    "a time limit that is text": {"headers": {"timelimit": "MARK"}},
    "pickle": {"content_type": "application/x-python-serialize"},
    "YAML": {"content_type": "application/x-yaml"},
    "a content type that nobody knows": {"content_type": "application/MARK"},
}
# For these nobody could be told: there is no id, or no task of ours.
UNANSWERED: Mapping[str, Mapping[str, Any]] = {
    "no id": {"headers": {"id": None}},
    "an id that is a list": {"headers": {"id": ["MARK"]}},
    "no task": {"headers": {"task": None}},
    "an unknown task": {"headers": {"task": "somebody.elses"}},
}


def send(place: Installation, flaw: Mapping[str, Any], mark: str, queue: str = "extraction") -> str:
    """Enqueue a message with `flaw`; returns its task id. Its names and representations hold `mark` too."""
    task_id = str(uuid.uuid4())
    wrong = json.loads(json.dumps(flaw).replace("MARK", mark))
    whole = {"task": "aegis.extract", "id": task_id, "argsrepr": mark, "kwargsrepr": mark, "shadow": mark}
    headers = {name: value for name, value in {**whole, **wrong.get("headers", {})}.items() if value is not None}
    body = wrong.get("body", [[], {"text": mark}, {}])
    with place.producer.connection_for_write() as connection:
        connection.Producer().publish(
            body if isinstance(body, str) else json.dumps(body),
            routing_key=queue,
            headers=headers,
            content_type=wrong.get("content_type", "application/json"),
            content_encoding="utf-8",
        )
    return task_id
