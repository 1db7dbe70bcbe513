"""The description of the API for programs."""

from typing import Any

from fastapi import FastAPI

# The body with which FastAPI answers a malformed request; here all errors have one form.
_UNUSED = "#/components/schemas/HTTPValidationError"
_UNUSED_SCHEMAS = ("HTTPValidationError", "ValidationError")


class Described(FastAPI):
    """An application whose description tells of the errors that it answers with, and of no others."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document; made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            for methods in document["paths"].values():
                for operation in methods.values():
                    unused = [status for status, told in operation["responses"].items() if _UNUSED in str(told)]
                    for status in unused:
                        del operation["responses"][status]
            for name in _UNUSED_SCHEMAS:
                document["components"]["schemas"].pop(name, None)
        assert self.openapi_schema is not None  # noqa: S101 - FastAPI keeps what it has made
        return self.openapi_schema
