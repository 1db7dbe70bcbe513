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


def _described(**options: Any) -> Any:
    """The description of the server, which needs neither Redis nor a data folder."""
    settings = admin_place.chosen(Path("/nowhere"))
    with LocalDesk(settings) as desk:
        config = SchemathesisConfig.from_dict({"headers": HEADERS, **options})
        return schemathesis.openapi.from_dict(application.build(settings, desk).openapi(), config=config)


schema = _described().exclude(path=ENDLESS)
# Steps have their bodies and their token put right, also where they were to be wrong; and a batch that goes on may be refused
# what one that has ended is not.
TOLD_BY_SINGLE_REQUESTS = {
    check: {"enabled": False} for check in ("negative_data_rejection", "positive_data_acceptance", "ignored_auth")
}
sound = _described(checks=TOLD_BY_SINGLE_REQUESTS).exclude(path=ENDLESS)


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


def test_what_was_made_can_be_done_all_that_its_links_say(place: AdminPlace) -> None:
    done: set[str] = set()
    uploaded: list[str] = []

    class Steps(sound.as_state_machine()):  # type: ignore[misc]
        """Each step follows from what an earlier one made."""

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            del case
            return {"base_url": place.url, "timeout": 30}

        def before_call(self, case: Any) -> None:
            """Nobody makes up a file of input lines, or the id of one."""
            if case.operation.label == "POST /v1/files":
                case.body = {"file": admin_place.texts(2), "purpose": "batch"}
            elif case.operation.label == "POST /v1/batches" and uploaded:
                case.body = {"input_file_id": uploaded[-1], "endpoint": "/v1/extractions"}

        def after_call(self, response: Any, case: Any) -> None:
            if response.status_code == 200:
                done.add(case.operation.label)
                uploaded.extend([response.json()["id"]] if case.operation.label == "POST /v1/files" else [])

    Steps.run(settings=hypothesis.settings(max_examples=15, stateful_step_count=8, derandomize=True, deadline=None))
    of_file = {"POST /v1/files", "GET /v1/files/{file_id}", "GET /v1/files/{file_id}/content", "DELETE /v1/files/{file_id}"}
    of_batch = {"POST /v1/batches", "GET /v1/batches/{batch_id}", "POST /v1/batches/{batch_id}/cancel"}
    assert done >= of_file | of_batch, of_file | of_batch - done
