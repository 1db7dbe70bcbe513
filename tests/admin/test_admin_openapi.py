"""The description of the API is complete."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import admin_place
import pytest

from aegis_workers.admin import application
from aegis_workers.jobs.local import LocalDesk


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    settings = admin_place.chosen(tmp_path_factory.mktemp("described"))
    with LocalDesk(settings) as desk:
        return application.build(settings, desk).openapi()


def operations(described: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_request_is_described_with_its_answers_and_errors(described: dict[str, Any]) -> None:
    for name, operation in operations(described):
        assert operation["summary"], name
        assert operation["description"], name
        # Only what is ours alone answers so: OpenAI has 400 for it.
        assert ("422" in operation["responses"]) <= ("/api/" in name), name
        if "/v1/" in name:
            assert {"400", "401", "403", "500", "503"} <= operation["responses"].keys(), name
            assert operation["security"], name
            assert ("{" in name) <= ("404" in operation["responses"]), name
        for status, response in operation["responses"].items():
            [(_, content)] = response["content"].items()
            assert content["schema"], (name, status)
            if int(status) >= 400:
                assert content["schema"] == {"$ref": "#/components/schemas/Failure"}, (name, status)


def test_every_link_leads_to_a_request_with_the_parameter_that_it_fills(described: dict[str, Any]) -> None:
    known = {operation["operationId"]: operation for _, operation in operations(described)}
    linked = {}
    for name, operation in operations(described):
        for link in operation["responses"].get("200", {}).get("links", {}).values():
            linked[name] = link
            parameters = {parameter["name"] for parameter in known[link["operationId"]]["parameters"]}
            assert link["parameters"].keys() <= parameters, name
    assert linked.keys() == {"POST /v1/batches", "POST /v1/files"}


def test_the_upload_is_described_as_a_form(described: dict[str, Any]) -> None:
    [form] = described["paths"]["/v1/files"]["post"]["requestBody"]["content"].items()
    assert form[0] == "multipart/form-data"
    assert set(form[1]["schema"]["required"]) == {"file", "purpose"}


def test_the_data_folder_is_not_made_before_it_is_needed(tmp_path: Path) -> None:
    settings = admin_place.chosen(tmp_path)
    with admin_place.serving(settings) as place, place.http() as http:
        assert http.get("/v1/batches").json()["data"] == []
        assert http.get("/v1/files").json()["data"] == []
    assert not settings.data_dir.exists()


def test_each_request_of_ours_says_how_it_refuses_a_parameter_that_it_does_not_know(described: dict[str, Any]) -> None:
    ours = {name: operation for name, operation in operations(described) if "/api/v1/admin" in name}
    assert len(ours) > 10
    assert all("422" in operation["responses"] for operation in ours.values())
