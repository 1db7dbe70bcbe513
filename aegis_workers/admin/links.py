"""What can be done with what was made: the links of the description, which programs follow."""

from collections.abc import Mapping
from typing import Any

_ID = "$response.body#/id"


def by_id(parameter: str, **operations: str) -> Mapping[int | str, dict[str, Any]]:
    """Links from a 200 to operations, by their ids, that take the id of what was made as this parameter of their path."""
    return {200: {"links": {name: {"operationId": to, "parameters": {parameter: _ID}} for name, to in operations.items()}}}
