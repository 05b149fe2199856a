"""Inside the image of every-interpreter: make the interpreters, ask each of them, compare the file system.

    every_interpreter.py make | snapshot | ask THREADS | apt | leave | compare

Python's own -I -S -B, so that neither blasenv nor a .pyc file comes from running this.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, "/check")
from snapshot import snapshot

VERSION = ".".join(map(str, sys.version_info[:2]))
FULL = ".".join(map(str, sys.version_info[:3]))
SYSTEM = f"/usr/bin/python{VERSION}"
STDLIB = Path(f"/usr/lib/python{VERSION}")
HOME = Path("/root")
# Where pyenv, uv and conda put an interpreter, and the file that each leaves there.
LAYOUTS = {
    HOME / ".pyenv" / "versions" / FULL: "",
    HOME / ".local" / "share" / "uv" / "python" / f"cpython-{FULL}-linux-x86_64-gnu": "EXTERNALLY-MANAGED",
    Path("/opt/conda"): "conda-meta/history",
}
# Not this image's: one that a product brings along, and one in another root. Nobody asked to cover them.
OTHERS = (Path("/opt/product/4.2/python"), Path("/srv/chroot/usr"))
VENVS = {"/opt/before": SYSTEM, "/opt/before-pyenv": next(iter(LAYOUTS)) / "bin" / "python3"}
AFTER = {"/opt/after": SYSTEM, "/opt/after-copies": list(LAYOUTS)[1] / "bin" / "python3"}
BEFORE = Path("/check/before.json")
# Kernel's and Docker's; our own; dpkg's lock and the copy it makes of what it is about to change.
SKIP = (
    *("/proc", "/sys", "/dev", "/run", "/tmp", "/check", "/blasenv", "/opt/after", "/opt/after-copies"),
    *("/etc/hosts", "/etc/hostname", "/etc/mtab", "/etc/resolv.conf", "/.dockerenv"),
    *(f"/var/lib/dpkg/{name}" for name in ("diversions-old", "lock", "triggers/Lock")),
)
PYPY = "/usr/bin/pypy3"
ASK = (
    "import ctypes, os, sys; get = ctypes.CDLL(None).getenv; get.restype = ctypes.c_char_p;"
    "print(get(b'OMP_NUM_THREADS'), os.environ.get('BLASENV_SET'))"
)


def make() -> None:
    """Interpreters in the places of pyenv, uv and conda, from Debian's own, and two venvs."""
    for prefix in (*LAYOUTS, *OTHERS):
        lib = prefix / "lib" / STDLIB.name
        shutil.copytree(STDLIB, lib, ignore=shutil.ignore_patterns("sitecustomize*", "EXTERNALLY-MANAGED"))
        (lib / "site-packages").mkdir()
        (prefix / "bin").mkdir()
        shutil.copy2(os.path.realpath(SYSTEM), prefix / "bin" / f"python{VERSION}")
        for name in ("python3", "python"):
            (prefix / "bin" / name).symlink_to(f"python{VERSION}")
    for prefix, file in LAYOUTS.items():
        if file:
            path = prefix / "lib" / STDLIB.name / file if file == "EXTERNALLY-MANAGED" else prefix / file
            path.parent.mkdir(exist_ok=True)
            path.write_text("")
    Path("/srv/chroot/etc").mkdir()
    shutil.copy("/usr/lib/os-release", "/srv/chroot/etc/os-release")
    make_venvs(VENVS)


def make_venvs(venvs: dict[str, object]) -> None:
    for directory, python in venvs.items():
        copies = ["--copies"] if directory.endswith("copies") else []
        subprocess.run([str(python), "-B", "-m", "venv", "--without-pip", *copies, directory], check=True)


def interpreters() -> list[str]:
    """What must be covered, known from how the image was made and not from blasenv."""
    bases = [SYSTEM, "/bin/python3", *(f"{prefix}/bin/python3" for prefix in LAYOUTS)]
    return [*bases, *(f"{directory}/bin/python" for directory in (*VENVS, *AFTER))]


def ask(threads: str) -> None:
    """The first line of user code of every interpreter must see the number, in silence."""
    make_venvs({directory: python for directory, python in AFTER.items() if not os.path.exists(directory)})
    environ = {"PATH": "/bin:/usr/bin"}
    for python in interpreters():
        done = subprocess.run([python, "-B", "-c", ASK], capture_output=True, text=True, env=environ, check=False)
        expected = f"b'{threads}' OMP_NUM_THREADS={threads}\n"
        seen = done.returncode, done.stdout, done.stderr
        print(python, done.stdout.strip())
        if seen != (0, expected, ""):
            raise SystemExit(f"{python}: {seen}, not {expected!r}")
    # PyPy cannot be covered, and must not be touched; the others' were not asked for.
    for python in [*filter(os.path.exists, [PYPY]), *(f"{prefix}/bin/python3" for prefix in OTHERS)]:
        done = subprocess.run([python, "-B", "-c", ASK], capture_output=True, text=True, env=environ, check=False)
        assert (done.stdout, done.stderr) == ("None None\n", ""), done


def apt() -> None:
    """Reinstall the packages of the system's Python, then upgrade them to ones with another conffile."""
    site = STDLIB / "sitecustomize.py"
    conffile = Path(f"/etc/python{VERSION}/sitecustomize.py")
    ours, before = site.read_bytes(), conffile.read_bytes()
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt_get = ["apt-get", "-y", "--no-install-recommends", "--allow-downgrades", "install"]
    packages = sorted(map(str, Path("/debs").glob("*.deb")))

    def run(command: list[str]) -> None:
        # A conffile prompt would read the end of file from stdin, and dpkg would fail.
        done = subprocess.run(command, env=quiet, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        if done.returncode or "onfiguration file" in said:
            raise SystemExit(f"{command}: exit status {done.returncode}\n{said}")

    run([*apt_get, "--reinstall", *packages])
    assert site.read_bytes() == ours
    assert conffile.read_bytes() == before
    newer = []
    for package in packages:
        tree = Path("/tmp/tree")
        shutil.rmtree(tree, ignore_errors=True)
        run(["dpkg-deb", "-R", package, str(tree)])
        control = tree / "DEBIAN" / "control"
        text = control.read_text()
        version = text.partition("\nVersion: ")[2].partition("\n")[0]
        control.write_text(text.replace(version, f"{version}+blasenv1"))
        changed = tree / str(conffile)[1:]
        if changed.exists():
            changed.write_bytes(before + b"# a later version\n")
        newer.append(f"/tmp/{Path(package).name}")
        run(["dpkg-deb", "-b", str(tree), newer[-1]])
    run([*apt_get, *newer])
    assert site.read_bytes() == ours, "the upgrade has overwritten our sitecustomize.py"
    aside = STDLIB / "sitecustomize.distrib.py"
    if aside.is_symlink():
        assert conffile.read_bytes() == before + b"# a later version\n", "the conffile is not the new one"
        assert os.readlink(aside) == str(conffile)
    run(["dpkg", "--audit"])


def leave() -> None:
    """Each copy takes itself away, without the command."""
    for python in [SYSTEM, *(f"{prefix}/bin/python3" for prefix in LAYOUTS)]:
        subprocess.run([python, "-B", "-m", "_blasenv_startup"], check=True)


def compare() -> None:
    """What differs from the snapshot that was taken before ``blasenv install``."""
    before = {path: tuple(kind) for path, kind in json.loads(BEFORE.read_text()).items()}
    after = snapshot("/", SKIP)
    different = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    if before.get("var/lib/dpkg/diversions", ())[:4] == after.get("var/lib/dpkg/diversions", ())[:4]:
        different.discard("var/lib/dpkg/diversions")  # written anew, with the same lines
    for path in sorted(different):
        print(path, before.get(path), after.get(path))
    if different:
        raise SystemExit(f"{len(different)} paths are not as before")
    print(f"{len(before)} paths as before")


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make()
    elif sys.argv[1] == "snapshot":
        BEFORE.write_text(json.dumps(snapshot("/", SKIP)))
    elif sys.argv[1] == "ask":
        ask(sys.argv[2])
    elif sys.argv[1] == "apt":
        apt()
    elif sys.argv[1] == "leave":
        leave()
    else:
        compare()
