"""Pages of a list, as OpenAI's API turns them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from aegis_workers.admin.failures import Refused


class HasId(Protocol):
    """What can be listed."""

    @property
    def id(self) -> str:
        """What `after` names it by."""


T = TypeVar("T", bound=HasId)


@dataclass(frozen=True, kw_only=True)
class Page(Generic[T]):
    """A part of a list, and whether it goes on."""

    items: Sequence[T]
    has_more: bool

    @property
    def first_id(self) -> str | None:
        """The id of its first entry; None where it is empty."""
        return self.items[0].id if self.items else None

    @property
    def last_id(self) -> str | None:
        """What the next page comes after; None where it is empty."""
        return self.items[-1].id if self.items else None


def paged(items: Sequence[T], *, limit: int, after: str | None) -> Page[T]:
    """The `limit` of `items` that come after the one of id `after`. Raises `Refused` where there is none such."""
    start = 0
    if after is not None:
        places = [place for place, item in enumerate(items) if item.id == after]
        if not places:
            raise Refused(404, "after names no entry of this list: take the last_id of a page", param="after", code="not_found")
        start = places[0] + 1
    return Page(items=items[start : start + limit], has_more=len(items) > start + limit)
