"""What Kubernetes would make of a pod under a policy of blasenv's, by a CEL engine from PyPI, cel-python.

It knows nothing of Kubernetes and is told the one type, JSONPatch.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Iterable, Mapping
from typing import Any


@functools.lru_cache(None)
def program(expression: str) -> Any:
    """The compiled expression."""
    import celpy

    made = type("JSONPatch", (celpy.celtypes.MapType,), {})  # what JSONPatch{…} makes
    environment = celpy.Environment(annotations={"JSONPatch": made})
    return environment.program(environment.compile(expression), functions={"dyn": lambda value: value})


def evaluate(expression: str, pod: Mapping[str, Any], numbers: int) -> Any:
    """The value of an expression for a pod; the policy's list of numbers has so many."""
    from celpy.adapter import CELJSONEncoder, json_to_cel

    variables = json_to_cel({"numbers": list(range(numbers))})
    value = program(expression).evaluate({"object": json_to_cel(dict(pod)), "variables": variables})
    return json.loads(json.dumps(value, cls=CELJSONEncoder))


def patch(document: Any, operation: Mapping[str, Any]) -> None:
    """Do one "add" of RFC 6902."""
    assert operation.keys() == {"op", "path", "value"}
    assert operation["op"] == "add"
    *parents, last = operation["path"].split("/")[1:]
    for name in parents:
        document = document[int(name) if isinstance(document, list) else name]
    if isinstance(document, list):
        assert last == "-"
        document.append(operation["value"])
    else:
        document[last] = operation["value"]


def admit(pod: dict[str, Any], conditions: Iterable[str], mutations: Iterable[str], numbers: int) -> dict[str, Any]:
    """The pod after the mutations, each seeing what those before it did, or as it was when a condition fails."""
    pod = copy.deepcopy(pod)
    if all(evaluate(text, pod, numbers) for text in conditions):
        for expression in mutations:
            for operation in evaluate(expression, pod, numbers):
                patch(pod, operation)
    return pod
