"""A pod as it leaves the policy, and as flags of docker run.

    blasenv inject k8s | inject_pod.py DIRECTORY

Reads the manifests, gives a pod that has PYTHONPATH and a limit to the policy's own expressions, puts the ConfigMap
into DIRECTORY as the kubelet does (a symlink to a directory with the time in its name), and prints the flags as JSON.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import yaml
from admission import admit

POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p"},
    "spec": {
        "containers": [
            {
                "name": "c",
                "image": "x",
                "env": [{"name": "PYTHONPATH", "value": "/app"}],
                "resources": {"limits": {"cpu": "1500m"}},
            }
        ]
    },
}


def main() -> None:
    config_map, policy, _ = yaml.safe_load_all(sys.stdin)
    spec = policy["spec"]
    pod = admit(
        POD,
        [one["expression"] for one in spec["matchConditions"]],
        [one["jsonPatch"]["expression"] for one in spec["mutations"]],
        len(json.loads(spec["variables"][0]["expression"])),
    )["spec"]
    (volume,) = pod["volumes"]
    assert volume["configMap"]["name"] == config_map["metadata"]["name"]
    directory = Path(sys.argv[1])
    version = directory / "..2026_11_24"
    for item in volume["configMap"]["items"]:
        path = version / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(config_map["binaryData"][item["key"]]))
        if not (directory / path.relative_to(version).parts[0]).is_symlink():
            (directory / path.relative_to(version).parts[0]).symlink_to(
                Path("..data", path.relative_to(version).parts[0])
            )
    (directory / "..data").symlink_to(version.name)
    (container,) = pod["containers"]
    flags = [f"--env={one['name']}={one['value']}" for one in container["env"]]
    flags += [
        f"--volume={directory}:{one['mountPath']}:{'ro' if one['readOnly'] else 'rw'}"
        for one in container["volumeMounts"]
        if one["name"] == volume["name"]
    ]
    cpus = float(container["resources"]["limits"]["cpu"].rstrip("m")) / 1000
    print(json.dumps([*flags, f"--cpus={cpus}", "--runtime=runc"]))


if __name__ == "__main__":
    main()
