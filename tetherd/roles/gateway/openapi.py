"""The OpenAPI 3.1 document, made from the table of routes that serves the requests."""

from http import HTTPStatus
from typing import Any, Final

from tetherd.roles.gateway.routing import Route, Table

_ERROR: Final = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string", "description": "What is wrong and why"},
        "code": {"type": "string", "description": "A stable name of the cause"},
        "fix": {"type": "string", "description": "What to do about it"},
        "retryable": {"type": "boolean", "description": "Whether trying again can help"},
        "details": {"type": "object"},
    },
}
_ALWAYS: Final = (400, 403, 431)
"""Any request can be malformed, come from a web page of another origin, or have too many headers."""


def document(table: Table, version: str) -> dict[str, Any]:
    """Return the document of all routes."""
    paths: dict[str, Any] = {}
    for route in table.routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tether gateway", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": {"Error": _ERROR}},
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _name(route),
        "summary": route.summary,
        "parameters": [
            {"name": segment[1:-1], "in": "path", "required": True, "schema": {"type": "string"}}
            for segment in route.segments
            if segment[:1] == "{"
        ],
        "responses": {str(status): {"description": text} for status, text in route.answers.items()},
    }
    for status in sorted({*_ALWAYS, *route.errors}):
        operation["responses"][str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
    if route.body is not None:
        media, schema = route.body
        operation["requestBody"] = {"content": {media: {"schema": _inline(schema)}}}
    return operation


def _name(route: Route) -> str:
    words = [segment.strip("{}").replace(".json", "") for segment in route.segments if segment]
    return "_".join([route.method.lower(), *words])


def _inline(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with its definitions put in place of the references to them."""
    definitions = schema.get("$defs", {})

    def resolve(value: Any) -> Any:
        if isinstance(value, list):
            return [resolve(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return resolve(definitions[value["$ref"].rpartition("/")[2]])
        return {key: resolve(item) for key, item in value.items() if key != "$defs"}

    resolved: dict[str, Any] = resolve(schema)
    return resolved
