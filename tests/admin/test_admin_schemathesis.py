"""Whatever is sent to the API, it answers as its description says."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import admin_place
import hypothesis
import pytest
import redis_servers
import schemathesis
from admin_place import TOKEN, AdminPlace
from schemathesis.config import SchemathesisConfig

from aegis_workers.admin import application
from aegis_workers.jobs.local import LocalDesk

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
# It never ends.
ENDLESS = "/api/v1/admin/events"


def _described() -> Any:
    """The description of the server, which needs neither Redis nor a data folder."""
    settings = admin_place.chosen(Path("/nowhere"))
    with LocalDesk(settings) as desk:
        config = SchemathesisConfig.from_dict({"headers": HEADERS})
        return schemathesis.openapi.from_dict(application.build(settings, desk).openapi(), config=config)


schema = _described().exclude(path=ENDLESS)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdminPlace]:
    """A server on a Redis of its own."""
    folder = tmp_path_factory.mktemp("asked")
    with ExitStack() as stack:
        url = stack.enter_context(redis_servers.running(folder / "redis"))
        yield stack.enter_context(admin_place.serving(admin_place.chosen(folder, redis_url=url, vllm_model="sim")))


@schema.parametrize()  # type: ignore[untyped-decorator]
@hypothesis.settings(max_examples=10, derandomize=True, deadline=None)
def test_every_answer_is_as_it_is_described(case: Any, place: AdminPlace) -> None:
    case.call_and_validate(base_url=place.url, timeout=30)
