"""The description of the API for programs."""

from typing import Any

from fastapi import FastAPI

# What FastAPI answers a malformed request with; here that is 400, in OpenAI's form.
_UNUSED_STATUS = "422"
_UNUSED_SCHEMAS = ("HTTPValidationError", "ValidationError")


class Described(FastAPI):
    """An application whose description tells of the errors that it answers with, and of no others."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document; made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            for methods in document["paths"].values():
                for operation in methods.values():
                    operation["responses"].pop(_UNUSED_STATUS, None)
            for name in _UNUSED_SCHEMAS:
                document["components"]["schemas"].pop(name, None)
        assert self.openapi_schema is not None  # noqa: S101 - FastAPI keeps what it has made
        return self.openapi_schema
