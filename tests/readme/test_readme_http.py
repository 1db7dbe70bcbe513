"""What the README says of the admin API, against the API."""

from pathlib import Path

import readme

from aegis_workers.admin import application
from aegis_workers.admin.batch_routes import Extras
from aegis_workers.jobs.local import LocalDesk
from aegis_workers.settings import Settings


def test_the_table_of_requests_is_the_api(tmp_path: Path) -> None:
    rows = [*readme.table("request", "what"), *readme.table("admin request", "what")]
    said = [request for requests, _ in rows for request in readme.words(requests)]
    settings = Settings(_env_file=None, data_dir=tmp_path)
    with LocalDesk(settings) as desk:
        paths = application.build(settings, desk).openapi()["paths"]
    served = [f"{method.upper()} {path}" for path, methods in paths.items() for method in methods]
    assert sorted(said) == sorted([*served, "GET /openapi.json"])


def test_every_extra_is_named() -> None:
    [sentence] = (part for part in readme.TEXT.split("\n\n") if part.startswith("What OpenAI has no word for"))
    for name, field in Extras.model_fields.items():
        assert f"`{field.alias or name}`" in sentence
