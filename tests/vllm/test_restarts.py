"""A server that is killed and started again under load."""

from pathlib import Path
from typing import Any

import jsonschema_rs
from installation import Installation, eventually, installed
from serving import Server

CALLS = 500


def schema(name: str) -> dict[str, Any]:
    """A schema which only the answer to the text of that name follows."""
    return {
        "type": "object",
        "properties": {
            "text": {"enum": [name]},
            "kind": {"enum": ["person", "place", "thing"]},
            "count": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["text", "kind", "count"],
        "additionalProperties": False,
    }


def recorded(place: Installation) -> int:
    return sum(1 for _ in place.redis.scan_iter("celery-task-meta-*", count=1000))


def test_every_call_ends_with_its_own_answer_while_the_server_is_killed_twice(
    tmp_path: Path, server: Server, real: dict[str, Any]
) -> None:
    with installed(tmp_path, "extraction", fallback="hold", **real) as place:
        names = [f"text-{number}" for number in range(CALLS)]
        results = [place.send("aegis.extract", text=f"The text {name}.", schema=schema(name)) for name in names]

        eventually(lambda: recorded(place) > CALLS // 5 and server.in_flight() > 0, within_s=180)
        server.kill()
        first = recorded(place)
        server.start()
        eventually(lambda: recorded(place) > first + CALLS // 5 and server.in_flight() > 0, within_s=180)
        server.kill_engine_core()
        eventually(lambda: not server.is_healthy(), within_s=180)
        second = recorded(place)
        server.start()

        outcomes = {name: result.get(timeout=300) for name, result in zip(names, results, strict=True)}
        assert first < second < CALLS
        assert {outcome["status"] for outcome in outcomes.values()} == {"ok"}
        for name, outcome in outcomes.items():
            jsonschema_rs.validate(schema(name), outcome["data"])
        # What was in flight was asked again, and neither an attempt nor an outcome was counted twice.
        assert {outcome["attempts"] for outcome in outcomes.values()} == {1}
        assert recorded(place) == CALLS
        assert place.worker_logs().count("call.finished") == CALLS
        assert server.in_flight() == 0
