"""Which container a cgroup is, and what people call it. ``parse_*`` take bytes, `Names` opens.

The path says the engine, the container's id and the pod's uid; the name is in the engine's own files, which
are read below the root directory of PID 1: the host's, also from a container that shares the host's PIDs.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import blasenv

_ID = r"[0-9a-f]{64}"
# What engines call the cgroup of a container, with systemd's driver and with cgroupfs:
#   docker-ID.scope  libpod-ID.scope  cri-containerd-ID.scope  crio-ID.scope  nerdctl-ID.scope  libpod-ID  crio-ID
#   ID               of Docker below /docker, of a kubelet's containerd below /kubepods, of anyone below --cgroup-parent
#   SLICE:PREFIX:ID  containerd that uses cgroupfs, told a path for systemd
# The monitors beside them (libpod-conmon-ID.scope) are not the container.
_CONTAINER = re.compile(rf"(?:(?:.*:)?(docker|libpod|cri-containerd|crio|nerdctl)[-:])?({_ID})(?:\.scope)?")
_ENGINES = {"libpod": "podman", "cri-containerd": "containerd", "nerdctl": "containerd"}
# The kubelet's, with cgroupfs and with systemd's driver, where _ stands for the uid's -; static pods have 32 digits.
#   podUID   kubepods-podUID.slice   kubepods-burstable-podUID.slice   kubelet-kubepods-besteffort-podUID.slice
_POD = re.compile(
    r"(?:|.*-)pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?:\.slice(?::.*)?)?"
)  # fmt: skip
_UNIT = re.compile(r".+\.(service|scope|socket|mount|swap)")  # systemd.unit(5); a slice only holds these
_ESCAPED = re.compile(rb"\\x([0-9a-f]{2})")  # systemd.unit(5), String Escaping for Inclusion in Unit Names
# Of the kubelet through Docker (cri-dockerd) and of CRI-O: k8s_CONTAINER_POD_NAMESPACE_UID_ATTEMPT
_K8S = re.compile(r"k8s_([^_]+)_([^_]+)_([^_]+)_[^_]+_[0-9]+")
_ANNOTATIONS = {
    "container": ("io.kubernetes.cri.container-name", "io.kubernetes.container.name"),
    "pod": ("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"),
    "namespace": ("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"),
    "name": ("nerdctl/name",),
}
MOST = 1 << 24  # bytes of an engine's file


class Place(NamedTuple):
    """What the path of a cgroup says."""

    path: bytes
    """Of the cgroup that is the container; what it made below is the container, too."""
    engine: str
    """docker, podman, containerd, crio, kubernetes (any of these), container (of whom isn't said), slurm, systemd; or
    "" for another cgroup."""
    id: str = ""
    """Of the container, 64 hexadecimal digits."""
    pod: str = ""
    """The uid of the Kubernetes pod."""
    name: str = ""
    """The unit, job step or cgroup, where it is no container; "" for the root."""


class Name(NamedTuple):
    """What people call a container; "" for what isn't known."""

    name: str = ""
    """Docker's, Podman's or nerdctl's."""
    container: str = ""
    """Within its pod."""
    pod: str = ""
    namespace: str = ""


def parse_path(path: bytes) -> Place:
    """The container, systemd unit or Slurm job step that the cgroup ``path`` of /proc/PID/cgroup belongs to."""
    parts = path.split(b"/")
    words = [os.fsdecode(part) for part in parts]
    pod, engine, place = "", "", None
    for at, word in enumerate(words):
        if found := _POD.fullmatch(word):
            pod = found[1].replace("_", "-")
        if found := _CONTAINER.fullmatch(word):
            engine = _ENGINES.get(found[1] or "", found[1] or "")
            if not engine:
                engine = "kubernetes" if pod else "docker" if words[at - 1] == "docker" else "container"
            place = Place(b"/".join(parts[: at + 1]), engine, found[2], pod)
    return place or _parse_step(parts, words) or _parse_unit(path, parts, words)


def _parse_step(parts: Sequence[bytes], words: Sequence[str]) -> Place | None:
    """Slurm: /slurm/uid_1000/job_7/step_0/task_0, or v2 /system.slice/slurmstepd.scope/job_7/step_0/user/task_0."""
    if not any(word.startswith("slurm") or word.endswith("slurmstepd.scope") for word in words):
        return None
    jobs = [at for at, word in enumerate(words) if re.fullmatch(r"job_[0-9]+", word)]
    if not jobs:
        return None
    at = jobs[0]
    name, end = f"job {words[at][4:]}", at + 1
    if words[end : end + 1] and words[end].startswith("step_"):
        name, end = f"{name} step {words[end][5:]}", end + 1
    return Place(b"/".join(parts[:end]), "slurm", name=name)


def _parse_unit(path: bytes, parts: Sequence[bytes], words: Sequence[str]) -> Place:
    units = [at for at, word in enumerate(words) if _UNIT.fullmatch(word)]
    units = units or [at for at, word in enumerate(words) if word.endswith(".slice")]
    if units:
        unit = _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), parts[units[-1]])
        return Place(path, "systemd", name=os.fsdecode(b"/".join([unit, *parts[units[-1] + 1 :]])))
    return Place(path, "", name=words[-1])


def _parse_json(contents: bytes) -> Any:
    try:
        return json.loads(contents)
    except (ValueError, RecursionError):
        return None


def _name_of(name: object, labels: object) -> Name:
    """From a name, and the labels or annotations of Kubernetes."""
    labels = labels if isinstance(labels, dict) else {}
    known = {
        field: next((labels[key] for key in keys if isinstance(labels.get(key), str)), "")
        for field, keys in _ANNOTATIONS.items()
    }
    if isinstance(name, str) and name:
        known["name"] = name.removeprefix("/")
    if found := _K8S.fullmatch(known["name"]):
        known = {"container": found[1], "pod": found[2], "namespace": found[3]}
    return Name(**known)


def parse_docker(contents: bytes) -> Name:
    """The name in Docker's ``containers/ID/config.v2.json``: "Name" with a / before it, "Config" with "Labels"."""
    config = _parse_json(contents)
    if not isinstance(config, dict):
        return Name()
    inner = config.get("Config")
    return _name_of(config.get("Name"), inner.get("Labels") if isinstance(inner, dict) else None)


def parse_podman(contents: bytes) -> dict[str, Name]:
    """The names by id in the ``containers.json`` of containers/storage: a list of objects with "id" and "names"."""
    found: dict[str, Name] = {}
    listed = _parse_json(contents)
    for one in listed if isinstance(listed, list) else []:
        names = one.get("names") if isinstance(one, dict) else None
        if isinstance(names, list) and names and isinstance(one.get("id"), str):
            found[one["id"]] = _name_of(names[0], None)
    return found


def parse_bundle(contents: bytes) -> Name:
    """The name in the annotations of an OCI bundle's ``config.json``, as containerd's CRI, CRI-O and nerdctl write."""
    config = _parse_json(contents)
    return _name_of("", config.get("annotations") if isinstance(config, dict) else None)


def parse_monitor(words: Sequence[str]) -> tuple[str, Name]:
    """The id and name on the command line of a conmon(8), ``-c ID … -n NAME``, of Podman's or CRI-O's; "" without."""
    told = {option: word for option, word in zip(words, words[1:]) if option in ("-c", "-n")}
    return told.get("-c", ""), _name_of(told.get("-n", ""), None)


def parse_data_root(words: Sequence[str]) -> str:
    """Where a dockerd with this command line keeps its files, "" where it doesn't say."""
    told = [word for option, word in zip(words, words[1:]) if option == "--data-root"]
    told += [word.partition("=")[2] for word in words if word.startswith("--data-root=")]
    return told[-1].rstrip("/") if told else ""


NAMELESS = Name()


class Names:
    """Finds the names of containers in the files of Docker, Podman, containerd and CRI-O."""

    def __init__(self, root: str = "/", monitors: Sequence[Sequence[str]] = (), daemons: Sequence[Sequence[str]] = ()):
        """``monitors`` and ``daemons`` are command lines of processes that are a conmon or a dockerd."""
        host = os.path.join(root, "proc/1/root")
        self._base = host if os.path.isdir(host) else root.rstrip("/")
        self._known: dict[str, Name] | None = None
        self._monitors = dict(parse_monitor(words) for words in monitors)
        roots = ["/var/lib/docker", *(parse_data_root(words) for words in daemons)]
        told = _parse_json(self._read("/etc/docker/daemon.json"))
        if isinstance(told, dict) and isinstance(told.get("data-root"), str):
            roots.append(told["data-root"].rstrip("/"))
        self._docker = [one for one in dict.fromkeys(roots) if one.startswith("/")]

    def _read(self, path: str) -> bytes:
        return blasenv.read_file(self._base + path, MOST)[0]

    def find(self, place: Place) -> tuple[str, Name]:
        """The engine and the name of a container: the path's engine and no name, where no readable file has it."""
        told = self._told(place) if place.id else ()
        return next(((engine, name) for engine, name in told if any(name)), (place.engine, NAMELESS))

    def _told(self, place: Place) -> Iterator[tuple[str, Name]]:
        anybody = place.engine in ("container", "kubernetes")
        if anybody or place.engine == "docker":
            for top in self._docker:
                yield "docker", parse_docker(self._read(f"{top}/containers/{place.id}/config.v2.json"))
        if anybody or place.engine == "containerd":
            for top in ("/run/containerd", "/run/k3s/containerd"):
                tasks = f"{top}/io.containerd.runtime.v2.task"
                for namespace in _listed(self._base + tasks):
                    yield "containerd", parse_bundle(self._read(f"{tasks}/{namespace}/{place.id}/config.json"))
        if anybody or place.engine in ("podman", "crio"):
            engine = {"container": "podman", "kubernetes": "crio"}.get(place.engine, place.engine)
            for top in ("/run/containers/storage", "/var/lib/containers/storage"):
                found = parse_bundle(self._read(f"{top}/overlay-containers/{place.id}/userdata/config.json"))
                yield engine, found
            yield engine, self._storage().get(place.id, NAMELESS)
            yield engine, self._monitors.get(place.id, NAMELESS)

    def _storage(self) -> dict[str, Name]:
        if self._known is None:
            self._known = {}
            top = "/var/lib/containers/storage"
            for driver in _listed(self._base + top):
                if driver.endswith("-containers"):
                    self._known.update(parse_podman(self._read(f"{top}/{driver}/containers.json")))
        return self._known


def _listed(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []
