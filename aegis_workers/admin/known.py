"""What a request may ask for: a parameter that nobody knows is refused, and not passed over."""

from fastapi import Request
from fastapi.routing import APIRoute

from aegis_workers.admin.failures import OUR_PREFIX, Refused


def only_known(request: Request) -> None:
    """Raises `Refused` for a query parameter that the route does not have; its name may be anything, and is not told."""
    route = request.scope["route"]
    known = {field.alias for field in route.dependant.query_params} if isinstance(route, APIRoute) else set()
    if not known.issuperset(request.query_params):
        status = 422 if request.url.path.startswith(OUR_PREFIX) else 400
        words = f"the query may have {', '.join(sorted(known))}" if known else "there are no query parameters here"
        raise Refused(status, f"{words}, and nothing else", code="invalid_request")
