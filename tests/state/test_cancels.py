"""Marks of revoked tasks, on a real Redis."""

import pytest
import redis
import redis.asyncio

from aegis_workers.state import cancels, keys
from aegis_workers.state.cancels import Cancel

pytestmark = pytest.mark.anyio

REVOKE, TERMINATE = Cancel.REVOKE, Cancel.TERMINATE


async def test_what_one_marks_all_find(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    cancels.mark(client, ["a", "b"], REVOKE)
    await cancels.share(async_client, ["c"], TERMINATE)
    assert await cancels.read(async_client, ["a", "b", "c", "d"]) == {"a": REVOKE, "b": REVOKE, "c": TERMINATE}
    assert [cancels.find(client, task_id) for task_id in "cd"] == [TERMINATE, None]
    assert await cancels.read(async_client, []) == {}


@pytest.mark.parametrize("first", [REVOKE, TERMINATE])
async def test_terminate_is_the_stronger_one_whichever_came_first(
    client: redis.Redis, async_client: redis.asyncio.Redis, first: Cancel
) -> None:
    second = TERMINATE if first is REVOKE else REVOKE
    cancels.mark(client, ["a"], first)
    await cancels.share(async_client, ["a"], second)
    assert cancels.find(client, "a") is TERMINATE


async def test_every_mark_expires(client: redis.Redis, async_client: redis.asyncio.Redis) -> None:
    cancels.mark(client, ["a"], REVOKE)
    await cancels.share(async_client, ["b"], TERMINATE)
    assert all(0 < int(client.ttl(keys.cancelled(task_id))) <= cancels.TTL_S for task_id in "ab")


@pytest.mark.parametrize(
    ("value", "cancel"),
    [(None, None), ("terminate", TERMINATE), (" TERMINATE\n", TERMINATE), ("revoke", REVOKE), ("1", REVOKE), ("", REVOKE)],
)
def test_any_other_word_is_the_weaker_one(value: str | None, cancel: Cancel | None) -> None:
    assert cancels.parse(value) is cancel
