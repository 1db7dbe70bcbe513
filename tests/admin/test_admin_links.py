"""What the description says can be done with what was made: a program that follows each link gets there."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import admin_place
import httpx
import pytest
import redis_servers
from admin_place import texts

# How one ends with a file and with a batch: last, so that there is something to do the rest with.
LAST = "delete"
# Of a batch that goes on, and no controller is here to end it, neither can be had.
NOT_YET = {"retry": 400, "delete": 400}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Of a server on a Redis of its own."""
    folder = tmp_path_factory.mktemp("linked")
    with (
        redis_servers.running(folder / "redis") as url,
        admin_place.serving(admin_place.chosen(folder, redis_url=url, vllm_model="sim")) as place,
        place.http() as http,
    ):
        yield http


def followed(client: httpx.Client, path: str, made: Mapping[str, Any]) -> dict[str, int]:
    """The status of each link of what a POST there made."""
    paths = client.get("/openapi.json").raise_for_status().json()["paths"]
    operations = {one["operationId"]: (method, where) for where, all_ in paths.items() for method, one in all_.items()}
    links = paths[path]["post"]["responses"]["200"]["links"]
    found = {}
    for name in sorted(links, key=lambda name: name == LAST):
        method, where = operations[links[name]["operationId"]]
        [(parameter, source)] = links[name]["parameters"].items()
        assert source == "$response.body#/id"
        found[name] = client.request(method, where.replace(f"{{{parameter}}}", made["id"])).status_code
    return found


def uploaded(client: httpx.Client) -> dict[str, Any]:
    answer = client.post("/v1/files", files={"file": ("in.jsonl", texts(2))}, data={"purpose": "batch"})
    return dict(json.loads(answer.raise_for_status().text))


def test_every_link_of_a_file_leads_there(client: httpx.Client) -> None:
    assert followed(client, "/v1/files", uploaded(client)) == {"show": 200, "content": 200, "delete": 200}


def test_every_link_of_a_batch_leads_there(client: httpx.Client) -> None:
    asked = {"input_file_id": uploaded(client)["id"], "endpoint": "/v1/extractions"}
    made = client.post("/v1/batches", json=asked).raise_for_status().json()
    assert followed(client, "/v1/batches", made) == {"show": 200, "results": 200, "cancel": 200} | NOT_YET
