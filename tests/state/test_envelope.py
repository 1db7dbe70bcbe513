import json
from typing import Any

import pytest

from aegis_workers.state import envelope
from aegis_workers.state.envelope import Death


def message(**changes: Any) -> dict[str, Any]:
    properties = {"delivery_tag": "first", "delivery_info": {"exchange": "", "routing_key": "chat"}, "priority": 0}
    return {"body": "e30=", "headers": {"id": "one", "stamps": {}, "groups": []}, "properties": properties, **changes}


def raw(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_a_message_for_another_delivery_is_marked_as_celery_does_it_and_has_a_name_of_its_own() -> None:
    before = message()
    after = json.loads(envelope.again(raw(before)))
    assert after["properties"].pop("delivery_tag") != before["properties"].pop("delivery_tag")
    assert after["properties"]["delivery_info"].pop("redelivered") is True
    assert after["headers"].pop("redelivered") is True
    assert after["headers"].pop(envelope.ENQUEUED_AT) > 0
    assert after == before


def test_when_a_message_was_enqueued_stays_with_it() -> None:
    """A producer that did not say it gets a deadline from the first return on: another return does not renew it."""
    said = envelope.again(raw(message(headers={envelope.ENQUEUED_AT: 5.0})))
    assert json.loads(said)["headers"][envelope.ENQUEUED_AT] == 5.0
    first = envelope.again(raw(message()))
    assert (
        json.loads(envelope.again(first))["headers"][envelope.ENQUEUED_AT] == json.loads(first)["headers"][envelope.ENQUEUED_AT]
    )


def test_each_death_is_noted_after_those_before() -> None:
    once = envelope.again(raw(message()), Death(worker="a", at=1.5))
    twice = envelope.again(envelope.again(once), Death(worker="b", at=2.5))
    assert envelope.deaths(json.loads(twice)["headers"]) == [{"worker": "a", "at": 1.5}, {"worker": "b", "at": 2.5}]


@pytest.mark.parametrize("noted", ["text", 5, None, {"worker": "a"}, [1, "a"]])
def test_deaths_that_somebody_made_up_are_passed_over(noted: Any) -> None:
    headers = {envelope.DEATHS: noted}
    assert envelope.deaths(headers) == []
    after = json.loads(envelope.again(raw(message(headers=headers)), Death(worker="a", at=1.0)))
    assert envelope.deaths(after["headers"]) == [{"worker": "a", "at": 1.0}]


@pytest.mark.parametrize(
    "unreadable",
    [b"", b"no JSON", b"\xff\xfe", b"5", b"[]", b"{}", raw({"properties": 5}), raw({"properties": {"delivery_tag": 5}})],
)
def test_what_is_no_message_is_said_to_be_none_and_stays_as_it_is(unreadable: bytes) -> None:
    assert envelope.read(unreadable) is None
    assert envelope.again(unreadable, Death(worker="a", at=1.0)) == unreadable


@pytest.mark.parametrize("change", [{"headers": None}, {"headers": "text"}, {"properties": {"delivery_tag": "first"}}])
def test_a_message_without_the_usual_parts_goes_on_all_the_same(change: dict[str, Any]) -> None:
    found = envelope.read(envelope.again(raw(message(**change)), Death(worker="a", at=1.0)))
    assert found is not None
    assert envelope.tag(found) != "first"
