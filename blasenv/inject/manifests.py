"""Kubernetes manifests that give the start-up code to the pods that opt in.

A ConfigMap in each namespace holds the files; a MutatingAdmissionPolicy (admissionregistration.k8s.io/v1,
stable since Kubernetes 1.36) adds the volume, the mounts and PYTHONPATH to pods as they are created.
https://kubernetes.io/docs/reference/access-authn-authz/mutating-admission-policy/

The expressions are CEL as cel-spec has it, and need none of Kubernetes' own functions. In Kubernetes, the values of
a map literal must have one type: dyn() around each makes it so. A list of numbers stands where a loop would count.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence

from blasenv import read_config
from blasenv.errors import Failure
from blasenv.inject.contents import PLACE
from blasenv.inject.runtime import ANNOTATION, OFF
from blasenv.output.text import printable
from blasenv.pythons.installed import read_file

NAME = "blasenv"
VOLUME = "blasenv-startup"
MOST = 1 << 20  # bytes of a ConfigMap: https://kubernetes.io/docs/concepts/configuration/configmap/
CONFIG = "blasenv.toml"
CONTAINERS = ("containers", "initContainers")  # sidecars are init containers that keep running
COUNT = 256
"""A PYTHONPATH behind so many variables is not found, and stays as it is."""


def read_toml(path: str) -> bytes:
    """A configuration for the containers. Raises Failure when blasenv would not take it."""
    problems = [problem for _, problem in read_config("/", {"BLASENV_CONFIG": path}).problems]
    contents = read_file(path)
    if problems or contents is None:
        raise Failure(f"{printable(path)}: {'; '.join(map(printable, problems)) or 'cannot be read'}")
    return contents


def key(path: str) -> str:
    """The key of a file in the ConfigMap, which may hold letters, digits, "-", "_" and "." only."""
    return path.replace("/", ".")


def config_map(files: Mapping[str, bytes], namespace: str) -> dict[str, object]:
    """The ConfigMap of a namespace. Raises Failure when the files are more than it may hold."""
    size = sum(map(len, files.values()))
    if size > MOST:
        raise Failure(f"the files have {size} bytes, and a ConfigMap at most {MOST}: give the versions that run there")
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": namespace},
        "binaryData": {key(path): base64.b64encode(code).decode("ascii") for path, code in sorted(files.items())},
    }


def _map(**fields: str) -> str:
    """A map literal of CEL; its values are expressions."""
    return "{" + ", ".join(f"{json.dumps(name)}: dyn({value})" for name, value in fields.items()) + "}"


def _patch(path: str, value: str) -> str:
    return f'JSONPatch{{op: "add", path: {path}, value: {value}}}'


def volume_expression(files: Mapping[str, bytes]) -> str:
    """The patch that adds the volume, where the pod has none of this name."""
    items = ", ".join(_map(key=json.dumps(key(path)), path=json.dumps(path)) for path in sorted(files))
    source = _map(name=f'"{NAME}"', optional="true", items=f"[{items}]")
    volume = _map(name=f'"{VOLUME}"', configMap=source)
    return (
        f'has(object.spec.volumes) && object.spec.volumes.exists(v, v.name == "{VOLUME}") ? [] :\n'
        f"[has(object.spec.volumes) ? {_patch(chr(34) + '/spec/volumes/-' + chr(34), volume)} :\n"
        f" {_patch(chr(34) + '/spec/volumes' + chr(34), '[' + volume + ']')}]"
    )


def _each(kind: str, which: str, patch: str) -> str:
    """Patches for the containers of a kind for which ``which`` holds; in both, "C" is the container, i its number."""
    held = f"object.spec.{kind}"
    container = f"{held}[i]"
    which, patch = (text.replace("C.", f"{container}.") for text in (which, patch))
    return f"!has({held}) ? [] :\nvariables.numbers.filter(i, i < size({held}) &&\n{which}).map(i,\n{patch})"


FROM_ELSEWHERE = 'has(C.env) && C.env.exists(v, v.name == "PYTHONPATH" && has(v.valueFrom))'
MOUNTED = f'has(C.volumeMounts) && C.volumeMounts.exists(m, m.mountPath == "{PLACE}")'
OURS = f'has(C.volumeMounts) && C.volumeMounts.exists(m, m.mountPath == "{PLACE}" && m.name == "{VOLUME}")'
DONE = (
    'has(C.env) && C.env.exists(v, v.name == "PYTHONPATH" && has(v.value) && '
    f'(v.value == "{PLACE}" || v.value.startsWith("{PLACE}:") || v.value.endsWith(":{PLACE}") || '
    f'v.value.contains(":{PLACE}:")))'
)


def mount_expression(kind: str) -> str:
    """The patches that add the mount. A container whose PYTHONPATH is told by a reference stays as it is."""
    mount = _map(name=f'"{VOLUME}"', mountPath=f'"{PLACE}"', readOnly="true")
    path = f'"/spec/{kind}/" + string(i) + "/volumeMounts'
    some, first = _patch(f'{path}/-"', mount), _patch(f'{path}"', f"[{mount}]")
    return _each(kind, f"!({MOUNTED}) && !({FROM_ELSEWHERE})", f"has(C.volumeMounts) ? {some} :\n{first}")


def variable_expression(kind: str, name: str, value: str) -> str:
    """The patches that add a variable where the mount is and the container has none of the name."""
    variable = _map(name=f'"{name}"', value=value)
    path = f'"/spec/{kind}/" + string(i) + "/env'
    some, first = _patch(f'{path}/-"', variable), _patch(f'{path}"', f"[{variable}]")
    absent = f'!(has(C.env) && C.env.exists(v, v.name == "{name}"))'
    return _each(kind, f"({OURS}) && {absent}", f"has(C.env) ? {some} :\n{first}")


def prepend_expression(kind: str) -> str:
    """The patches that put our directory before the PYTHONPATH that a container's spec has."""
    # Of several of the name, the last one counts.
    places = 'variables.numbers.filter(j, j < size(C.env) && C.env[j].name == "PYTHONPATH")'
    last = f"{places}[size({places}) - 1]"
    value = f"C.env[{last}].value"
    path = f'"/spec/{kind}/" + string(i) + "/env/" + string({last}) + "/value"'
    joined = f'(has({value}) && {value} != "" ? "{PLACE}:" + {value} : "{PLACE}")'
    named = f"(has(C.env) ? size({places}) > 0 : false)"
    return _each(kind, f"({OURS}) && {named} && !({DONE})", _patch(path, joined))


def expressions(files: Mapping[str, bytes]) -> Iterator[str]:
    """The mutations, each of which sees what those before it did."""
    yield volume_expression(files)
    for kind in CONTAINERS:
        yield mount_expression(kind)
        # First those that have one: what is added afterwards needs nothing before it.
        yield prepend_expression(kind)
        # Kubernetes puts in what envFrom has, which no policy can see, and leaves the reference where it has nothing.
        yield variable_expression(kind, "PYTHONPATH", f'has(C.envFrom) ? "{PLACE}:$(PYTHONPATH)" : "{PLACE}"')
        if CONFIG in files:
            yield variable_expression(kind, "BLASENV_CONFIG", f'"{PLACE}/{CONFIG}"')


CONDITIONS = {
    "not-windows": '!has(object.spec.os) || object.spec.os.name != "windows"',
    "not-opted-out": (
        f'!has(object.metadata.annotations) || !("{ANNOTATION}" in object.metadata.annotations) || '
        f'!(object.metadata.annotations["{ANNOTATION}"] in {json.dumps(list(OFF))})'
    ),
}


def policy(files: Mapping[str, bytes], label: str, *, kyverno: bool = False) -> list[dict[str, object]]:
    """The policy, and its binding, for pods in namespaces with blasenv.inject=true, or with a ``label``, "K=V"."""
    out = {"key": ANNOTATION, "operator": "NotIn", "values": list(OFF)}
    name, _, value = label.partition("=")
    namespaces: dict[str, object] = {} if label else {"namespaceSelector": {"matchLabels": {ANNOTATION: "true"}}}
    pods: dict[str, object] = {"matchLabels": {name: value}} if label else {}
    spec = {
        "matchConstraints": {
            **namespaces,
            "objectSelector": {**pods, "matchExpressions": [out]},
            "resourceRules": [
                {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
            ],
        },
        "matchConditions": [{"name": name, "expression": text} for name, text in CONDITIONS.items()],
        "failurePolicy": "Ignore",
        "reinvocationPolicy": "IfNeeded",
        "variables": [{"name": "numbers", "expression": json.dumps(list(range(COUNT)))}],
        "mutations": [
            {"patchType": "JSONPatch", "jsonPatch": {"expression": expression}} for expression in expressions(files)
        ],
    }
    if kyverno:
        return [
            {"apiVersion": "policies.kyverno.io/v1", "kind": "MutatingPolicy", "metadata": {"name": NAME}, "spec": spec}
        ]
    group = "admissionregistration.k8s.io/v1"
    return [
        {"apiVersion": group, "kind": "MutatingAdmissionPolicy", "metadata": {"name": NAME}, "spec": spec},
        {
            "apiVersion": group,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": NAME},
            "spec": {"policyName": NAME},
        },
    ]


def yaml(document: object, indent: str = "") -> str:
    """Mappings, lists, strings, numbers and booleans as YAML: strings quoted as in JSON, or as blocks."""
    lines = []
    if isinstance(document, Mapping) and document:
        for name, value in document.items():
            lines.append(f"{indent}{_scalar(name)}:{_below(value, indent)}")
    elif isinstance(document, Sequence) and not isinstance(document, str) and document:
        lines = [f"{indent}- {yaml(value, indent + '  ').lstrip(' ')}" for value in document]
    else:
        return indent + _scalar(document)
    return "\n".join(lines)


def _below(value: object, indent: str) -> str:
    if isinstance(value, str) and "\n" in value:
        # A block: each line as it is, without a last newline.
        return " |-\n" + "\n".join(f"{indent}  {line}" for line in value.split("\n"))
    if isinstance(value, (Mapping, list)) and value:
        return "\n" + yaml(value, indent + "  ")
    return " " + _scalar(value)


def _scalar(value: object) -> str:
    plain = isinstance(value, str) and value[:1].isalpha() and value.replace("-", "").replace("_", "").isalnum()
    if (
        plain
        and str(value).isascii()
        and str(value).lower() not in ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
    ):
        return str(value)
    return json.dumps(value)
