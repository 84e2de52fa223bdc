"""The OpenAPI document is valid, complete and served."""

from typing import Any

from openapi_spec_validator import validate

from tetherd.roles.gateway import openapi, routing


async def test_the_document_is_valid_and_has_every_route(world: Any) -> None:
    document = (await world.ask("GET", "/openapi.json")).json()
    validate(document)
    assert document["openapi"] == "3.1.0"
    table: routing.Table = world.gateway.app._table
    served = {(route.method.lower(), route.path) for route in table.routes}
    described = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert served == described
    ids = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(ids) == len(set(ids))
    assert openapi.document(table, "9.9") == document
