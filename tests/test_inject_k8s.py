"""blasenv inject k8s: the schemas of Kubernetes, its expressions by a CEL engine over pods, and what comes of them.

The engine is cel-python (support/admission.py); docker-tests/inject runs the resulting pod. What only a real
cluster can show (admission itself, the kubelet's volumes) was not run.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import admission
import pytest
from conftest import run

from blasenv.inject import manifests
from blasenv.inject.contents import PLACE, Contents, sources
from blasenv.inject.export import export
from blasenv.inject.manifests import CONDITIONS, VOLUME, expressions

FILES = {**sources(), "__pycache__/sitecustomize.cpython-311.pyc": b"\0\xff"}
MOUNT = {"name": VOLUME, "mountPath": PLACE, "readOnly": True}


def admit(pod: dict[str, Any], files: Mapping[str, bytes] = FILES, numbers: int = 8) -> dict[str, Any]:
    """The pod after the policy. It counts to 256; the engine takes seconds for that."""
    pytest.importorskip("celpy")
    return admission.admit(pod, CONDITIONS.values(), expressions(files), numbers)


def pod(*containers: dict[str, Any], **spec: Any) -> dict[str, Any]:
    named = [{"name": f"c{number}", "image": "x", **container} for number, container in enumerate(containers)]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": named, **spec}}


def env(**values: str) -> list[dict[str, Any]]:
    return [{"name": name, "value": value} for name, value in values.items()]


REFERENCE = {"name": "PYTHONPATH", "valueFrom": {"configMapKeyRef": {"name": "x", "key": "y"}}}
# What a container has, and the env that it must have in the end.
CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "no env": ({}, env(PYTHONPATH=PLACE)),
    "an empty env": ({"env": []}, env(PYTHONPATH=PLACE)),
    "another variable": ({"env": env(A="1")}, env(A="1", PYTHONPATH=PLACE)),
    "its own": ({"env": env(A="1", PYTHONPATH="/a:/b", B="$(A)")}, env(A="1", PYTHONPATH=f"{PLACE}:/a:/b", B="$(A)")),
    "an empty one": ({"env": env(PYTHONPATH="")}, env(PYTHONPATH=PLACE)),
    "one without a value": ({"env": [{"name": "PYTHONPATH"}]}, env(PYTHONPATH=PLACE)),
    "two, of which the last counts": (
        {"env": [*env(PYTHONPATH="/a"), *env(PYTHONPATH="/b")]},
        [*env(PYTHONPATH="/a"), *env(PYTHONPATH=f"{PLACE}:/b")],
    ),
    "a prefix of the name": ({"env": env(PYTHONPATHS="/a")}, env(PYTHONPATHS="/a", PYTHONPATH=PLACE)),
    "envFrom": (
        {"envFrom": [{"configMapRef": {"name": "x"}}]},
        env(PYTHONPATH=f"{PLACE}:$(PYTHONPATH)"),
    ),
    "mounts": ({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}, env(PYTHONPATH=PLACE)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["containers", "initContainers"])
def test_a_container_gets_the_mount_and_keeps_its_own(name: str, kind: str) -> None:
    container, expected = CASES[name]
    before = pod({}, **{kind: [{"name": "first", "image": "x"}, {"name": "under test", "image": "y", **container}]})
    after = admit(before)
    got = after["spec"][kind][1]
    assert got["env"] == expected
    assert got["volumeMounts"] == [*container.get("volumeMounts", []), MOUNT]
    assert {**got, "env": 0, "volumeMounts": 0} == {**before["spec"][kind][1], "env": 0, "volumeMounts": 0}
    assert after["spec"][kind][0]["env"] == env(PYTHONPATH=PLACE)
    (volume,) = after["spec"]["volumes"]
    assert volume["name"] == VOLUME
    assert volume["configMap"]["optional"]
    assert sorted((item["key"], item["path"]) for item in volume["configMap"]["items"]) == sorted(
        (manifests.key(path), path) for path in FILES
    )
    assert admit(after) == after  # once is enough
    validate(after)


def test_a_long_list_of_variables() -> None:
    long = env(**{f"V{number}": "" for number in range(40)})
    after = admit(pod({"env": [*long, *env(PYTHONPATH="/a")]}), numbers=41)
    assert after["spec"]["containers"][0]["env"] == [*long, *env(PYTHONPATH=f"{PLACE}:/a")]
    # Behind more than the policy counts to, it is not found, and stays.
    behind = {"env": [*long, *env(PYTHONPATH="/a")]}
    assert admit(pod(behind), numbers=40)["spec"]["containers"][0]["env"] == behind["env"]


def test_a_sidecar_is_an_init_container() -> None:
    after = admit(pod({}, initContainers=[{"name": "s", "image": "x", "restartPolicy": "Always"}]))
    assert after["spec"]["initContainers"][0]["volumeMounts"] == [MOUNT]


def test_the_pods_own_volumes_stay() -> None:
    own = {"name": "v", "emptyDir": {}}
    after = admit(pod({}, volumes=[own]))
    assert after["spec"]["volumes"][0] == own
    assert len(after["spec"]["volumes"]) == 2


def test_what_cannot_be_kept_is_not_touched() -> None:
    before = pod({"env": [*env(A="1"), REFERENCE]}, {})
    after = admit(before)
    assert after["spec"]["containers"][0] == before["spec"]["containers"][0]
    assert after["spec"]["containers"][1]["volumeMounts"] == [MOUNT]
    # Something of the pod's is at our place.
    before = pod({"volumeMounts": [{"name": "theirs", "mountPath": PLACE}]}, volumes=[{"name": "theirs"}])
    assert admit(before)["spec"]["containers"] == before["spec"]["containers"]


def test_one_put_before_ours_by_somebody_else_is_left_there() -> None:
    after = admit(pod({}))
    after["spec"]["containers"][0]["env"] = env(PYTHONPATH=f"/otel:{PLACE}")
    assert admit(after) == after


@pytest.mark.parametrize(
    "before",
    [
        {**pod({}), "metadata": {"name": "p", "annotations": {"blasenv.inject": "false"}}},
        pod({}, os={"name": "windows"}),
    ],
)
def test_a_pod_can_opt_out(before: dict[str, Any]) -> None:
    assert admit(before) == before
    assert admit({**pod({}), "metadata": {"name": "p", "annotations": {"a": "b"}}}) != pod({})


def test_a_configuration_goes_along(tmp_path: Path) -> None:
    (tmp_path / "blasenv.toml").write_text('rounding = "ceil"\n')
    toml = manifests.read_toml(str(tmp_path / "blasenv.toml"))
    after = admit(pod({}, {"env": env(BLASENV_CONFIG="/own.toml")}), {**FILES, manifests.CONFIG: toml})
    configs = [
        [item["value"] for item in container["env"] if item["name"] == "BLASENV_CONFIG"]
        for container in after["spec"]["containers"]
    ]
    assert configs == [[f"{PLACE}/blasenv.toml"], ["/own.toml"]]
    (tmp_path / "blasenv.toml").write_text("thread = 1\n")
    with pytest.raises(Exception, match="thread"):
        manifests.read_toml(str(tmp_path / "blasenv.toml"))


def validate(document: dict[str, Any]) -> None:
    """Hold a document against the schema of Kubernetes 1.36, strictly: no field that it does not know."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    kubernetes_validate.validate(document, "1.36", strict=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("exported")
    export(Contents(dict(FILES)), str(directory))
    return directory


def command(*words: str | Path, status: int = 0) -> tuple[list[dict[str, Any]], str]:
    """The documents that ``blasenv inject k8s`` prints, and what it says."""
    yaml = pytest.importorskip("yaml")
    done = run([sys.executable, "-m", "blasenv", "inject", "k8s", *words], status=status)
    return list(yaml.safe_load_all(done.stdout)), done.stderr


def test_the_manifests_are_kubernetes(exported: Path) -> None:
    documents, said = command("--from", exported, "--namespace", "a", "--namespace", "b")
    kinds = [document["kind"] for document in documents]
    assert kinds == ["ConfigMap", "ConfigMap", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"]
    for document in documents:
        validate(document)
    binary = {name: base64.b64decode(value) for name, value in documents[0]["binaryData"].items()}
    assert binary == {manifests.key(path): code for path, code in FILES.items()}
    spec = documents[2]["spec"]
    assert spec["failurePolicy"] == "Ignore"
    assert [one["jsonPatch"]["expression"] for one in spec["mutations"]] == list(expressions(FILES))
    assert {one["name"]: one["expression"] for one in spec["matchConditions"]} == CONDITIONS
    assert "kubectl apply --server-side" in said
    assert "own PYTHONPATH" in said


def test_pods_with_a_label_instead_of_namespaces(exported: Path) -> None:
    documents, _ = command("--from", exported, "--label", "team/blas=on")
    for document in documents:
        validate(document)
    constraints = documents[1]["spec"]["matchConstraints"]
    assert constraints["objectSelector"]["matchLabels"] == {"team/blas": "on"}
    assert "namespaceSelector" not in constraints


def test_the_policy_for_kyverno_is_the_same(exported: Path) -> None:
    documents, _ = command("--from", exported, "--kyverno")
    ours, _ = command("--from", exported)
    assert [document["kind"] for document in documents] == ["ConfigMap", "MutatingPolicy"]
    assert documents[1]["spec"] == ours[1]["spec"]


def test_wrong_usage_says_so(exported: Path, tmp_path: Path) -> None:
    assert "is not the name of a namespace" in command("--from", exported, "--namespace", "A b", status=2)[1]
    assert "is no label" in command("--from", exported, "--label", "x", status=2)[1]
    assert "nothing is exported to" in command("--from", tmp_path, status=1)[1]
    assert "no such file" in command("--from", exported, "--config", tmp_path / "no.toml", status=1)[1]


def test_too_much_for_a_config_map() -> None:
    with pytest.raises(Exception, match="a ConfigMap at most 1048576"):
        manifests.config_map({"x": bytes(manifests.MOST + 1)}, "default")
