"""``blasenv scan`` on fake images, whose interpreters could not be started, and on this machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import NEWEST_TESTED, PYTHONS, ROOT, clean_environ, run
from instructions import copy_hook
from prefix import copy_by_hand, make_prefix

from blasenv.pythons.owner import owner
from blasenv.pythons.search import MAX_DIRECTORIES, foreign_mounts


class Image:
    """A fake root directory with interpreters in it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def at(self, path: str) -> Path:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def directory(self, path: str) -> Path:
        place = self.root / path.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        return place

    def write(self, path: str, text: str = "") -> None:
        self.at(path).write_text(text)

    def link(self, path: str, target: str) -> None:
        self.at(path).symlink_to(target)

    def binary(self, path: str) -> None:
        """An executable of another machine, as far as this one is concerned."""
        self.at(path).write_bytes(b"\x7fELF no program")
        self.at(path).chmod(0o755)

    def base(self, prefix: str, name: str, *links: str) -> None:
        """An interpreter, its standard library and site-packages, and links to the executable."""
        self.binary(f"{prefix}/bin/{name}")
        self.write(f"{prefix}/lib/{name}/os.py")
        self.directory(f"{prefix}/lib/{name}/site-packages")
        for link in links:
            self.link(f"{prefix}/bin/{link}", name)

    def venv(self, directory: str, home: str, target: str = "", **keys: str) -> None:
        """A virtual environment, with a link to ``target`` or, without one, with a copy of the executable."""
        lines = {"home": home, "include-system-site-packages": "false", **keys}
        self.write(f"{directory}/pyvenv.cfg", "".join(f"{key} = {value}\n" for key, value in lines.items()))
        if target:
            self.link(f"{directory}/bin/python", target)
        else:
            self.binary(f"{directory}/bin/python")

    def scan(self, *words: str, status: int = 0) -> dict[str, dict[str, object]]:
        """What ``blasenv scan`` says, by path."""
        found = json.loads(scan("--root", self.root, "--json", *words, status=status).stdout)
        return {str(one["path"]): one for one in found["interpreters"]}


def scan(*words: str | Path, status: int = 0, **changes: str) -> subprocess.CompletedProcess[str]:
    environ = clean_environ(PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1", **changes)
    return run([sys.executable, "-m", "blasenv", "scan", *words], environ=environ, status=status)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """One of each."""
    image = Image(tmp_path / "image")
    # Debian: merged /usr, python3 is a link, and so is a link to that in /etc/alternatives.
    image.base("/usr", "python3.11", "python3")
    image.link("/bin", "usr/bin")
    image.link("/lib", "usr/lib")
    image.link("/etc/alternatives/python", "/usr/bin/python3")
    image.link("/usr/bin/python", "/etc/alternatives/python")
    image.directory("/usr/lib/python3/dist-packages")
    # pyenv, with its shims, and a version too old.
    image.base("/home/ada/.pyenv/versions/3.13.1", "python3.13", "python3", "python")
    image.base("/home/ada/.pyenv/versions/3.8.18", "python3.8")
    image.write("/home/ada/.pyenv/shims/python3.13", "#!/bin/sh\n")
    image.at("/home/ada/.pyenv/shims/python3.13").chmod(0o755)
    # uv, conda, PyPy, something in /opt, a free-threaded one, one on 64-bit Fedora's ways.
    uv = "/root/.local/share/uv/python/cpython-3.12.7-linux-x86_64-gnu"
    image.base(uv, "python3.12", "python3", "python")
    image.base("/opt/conda", "python3.12", "python")
    image.write("/opt/conda/conda-meta/history")
    image.base("/opt/conda/envs/science", "python3.10")
    image.write("/opt/conda/envs/science/conda-meta/history")
    image.base("/opt/pypy3.10-v7.3.17", "pypy3.10", "pypy3", "python")
    image.base("/opt/vendor/runtime", "python3.14t", "python3.14")
    image.binary("/usr/local/bin/python3.9")
    image.write("/usr/local/lib64/python3.9/os.py")
    # Virtual environments: a link, a copy, virtualenv's, uv's, one whose base is gone.
    image.venv("/srv/app/.venv", "/usr/bin", "/usr/bin/python3", version="3.11.2")
    image.venv("/srv/copies", "/home/ada/.pyenv/versions/3.13.1/bin", version="3.13.1")
    image.venv("/srv/virtualenv", f"{uv}/bin", f"{uv}/bin/python3.12", virtualenv="20.26", version_info="3.12.7")
    image.venv("/srv/uv", "/opt/conda/bin", "/opt/conda/bin/python", uv="0.5", version_info="3.12.7")
    image.venv("/srv/orphan", "/opt/python3.7/bin", version="3.12.0")
    # None of these is one.
    image.write("/usr/bin/python3-config", "#!/bin/sh\n")
    image.link("/usr/bin/python3.99", "nowhere")
    image.base("/srv/node_modules/thing", "python3.12")
    image.base("/proc/1/root", "python3.12")
    image.link("/srv/loop", "loop")
    os.mkfifo(image.at("/usr/local/bin/python3.10"))
    return image


def test_finds_each_once(image: Image) -> None:
    found = {path: (one["kind"], one["version"]) for path, one in image.scan().items()}
    assert found == {
        "/usr/bin/python3.11": ("system", "3.11"),
        "/usr/local/bin/python3.9": ("python", "3.9"),
        "/home/ada/.pyenv/versions/3.13.1/bin/python3.13": ("pyenv", "3.13"),
        "/home/ada/.pyenv/versions/3.8.18/bin/python3.8": ("pyenv", "3.8"),
        "/root/.local/share/uv/python/cpython-3.12.7-linux-x86_64-gnu/bin/python3.12": ("uv", "3.12"),
        "/opt/conda/bin/python3.12": ("conda", "3.12"),
        "/opt/conda/envs/science/bin/python3.10": ("conda", "3.10"),
        "/opt/pypy3.10-v7.3.17/bin/pypy3.10": ("pypy", "3.10"),
        "/opt/vendor/runtime/bin/python3.14t": ("python", "3.14"),
        "/srv/app/.venv/bin/python": ("venv", "3.11"),
        "/srv/copies/bin/python": ("venv", "3.13"),
        "/srv/virtualenv/bin/python": ("virtualenv", "3.12"),
        "/srv/uv/bin/python": ("uv venv", "3.12"),
        "/srv/orphan/bin/python": ("venv", "3.12"),
    }


def test_says_what_covers_each(image: Image) -> None:
    before = image.scan("--strict", status=1)
    assert not any(one["covered_by"] for one in before.values())
    copy_by_hand(image.at("/usr/lib/python3.11"))
    copy_by_hand(image.at("/home/ada/.pyenv/versions/3.13.1/lib/python3.13"))
    copy_hook(image.at("/opt/conda/lib/python3.12/site-packages"))
    copy_hook(image.directory("/srv/app/.venv/lib/python3.11/site-packages"))
    found = {path: one["covered_by"] for path, one in image.scan("--strict", status=1).items() if one["covered_by"]}
    assert found == {
        "/usr/bin/python3.11": ["sitecustomize"],
        "/home/ada/.pyenv/versions/3.13.1/bin/python3.13": ["sitecustomize"],
        "/opt/conda/bin/python3.12": ["hook"],  # and not the venv made from it
        "/srv/app/.venv/bin/python": ["hook", "inherited"],
        "/srv/copies/bin/python": ["inherited"],
    }


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ("a0_blasenv.pth", "a0_blasenv.pth is missing"),
        ("blasenv", "the package beside the hook is missing"),
    ],
)
def test_a_hook_that_lost_its_other_half(damage: str, problem: str, image: Image) -> None:
    site = image.at("/opt/conda/lib/python3.12/site-packages")
    copy_hook(site)
    (site / damage).rename(site / "lost")
    one = image.scan("opt/conda", "--strict", status=1)["/opt/conda/bin/python3.12"]
    assert (one["covered_by"], one["problems"]) == ([], [problem])


def test_strict_is_content_when_all_that_can_be_are_covered(image: Image) -> None:
    copy_by_hand(image.at("/home/ada/.pyenv/versions/3.13.1/lib/python3.13"))
    places = image.scan("home", "srv/copies", "--strict")
    assert len(places) == 3  # one of them is Python 3.8, which cannot be
    text = scan("--root", image.root, "home", "--strict")
    assert text.stdout.endswith("Covered.\n")
    assert text.stderr == ""


def test_what_cannot_be_covered_says_why(image: Image) -> None:
    found = image.scan("opt", "home")
    why = {path: one["problems"] for path, one in found.items() if not one["supported"]}
    assert why == {
        "/home/ada/.pyenv/versions/3.8.18/bin/python3.8": ["older than Python 3.9"],
        "/opt/pypy3.10-v7.3.17/bin/pypy3.10": [
            "PyPy has no os.sched_getaffinity, so that the start-up code cannot count CPUs"
        ],
    }


@pytest.mark.parametrize(
    ("prefix", "whose"),
    [
        ("", None),
        ("/usr", None),
        ("/usr/local", None),
        ("/opt", None),
        ("/home/ada", None),
        ("/home/ada/.local", None),
        ("/home/ada/.pyenv/versions/3.13.1", None),
        ("/opt/pyenv/versions/3.13.1", None),
        ("/root/.local/share/uv/python/cpython-3.12.7-linux-x86_64-gnu", None),
        ("/root/.local/share/mise/installs/python/3.13.1", None),
        ("/root/.asdf/installs/python/3.13.1", None),
        ("/home/linuxbrew/.linuxbrew/Cellar/python@3.12/3.12.1", None),
        ("/python", None),
        ("/opt/python3.13", None),
        ("/opt/python/3.13.1", None),
        ("/opt/python/cp313-cp313", None),
        ("/usr/local/python", None),
        ("/home/ada/Python-3.13", None),
        ("/opt/blender/4.2/python", "/opt/blender"),
        ("/opt/vendor/runtime", "/opt/vendor"),
        ("/opt/company/python3.12", "/opt/company"),
        ("/optimal/python", "/optimal"),
        ("/usr/lib/google-cloud-sdk/platform/bundledpythonunix", "/usr/lib/google-cloud-sdk"),
        ("/usr/lib/libreoffice/program/python", "/usr/lib/libreoffice"),
        ("/usr/local/share/product/python", "/usr/local/share/product"),
        ("/root/.local/share/product/python", "/root/.local/share/product"),
        ("/var/lib/product/python", "/var/lib/product"),
    ],
)
def test_whose_by_its_place(prefix: str, whose: str | None, tmp_path: Path) -> None:
    found = owner(str(tmp_path), f"{prefix}/lib/python3.13")
    assert (found and found.directory) == whose
    assert found is None or found.kind == "product"
    # The same in another root that is unpacked below.
    Image(tmp_path).write("/mnt/disk/etc/os-release")
    assert owner(str(tmp_path), f"/mnt/disk{prefix}/lib/python3.13") == ("root", "/mnt/disk")


def of_others(image: Image) -> None:
    """Interpreters of two other roots and of a product."""
    # One whose absolute links, followed from here, would lead into this image.
    image.base("/srv/chroot/usr", "python3.11", "python3")
    image.link("/srv/chroot/etc/os-release", "../usr/lib/os-release")
    image.link("/srv/chroot/usr/local/bin/python3", "/usr/bin/python3.11")
    image.venv("/srv/chroot/srv/app", "/usr/bin", "/usr/bin/python3", version="3.11.2")
    image.venv("/srv/chroot/srv/orphan", "/opt/gone/bin", version="3.12.0")
    image.base("/mnt/disk/opt/conda", "python3.12")
    image.write("/mnt/disk/opt/conda/conda-meta/history")
    for directory in ("usr/bin", "etc", "lib"):
        image.directory(f"/mnt/disk/{directory}")
    image.base("/opt/blender/4.2/python", "python3.11")
    image.venv("/opt/blender/4.2/venv", "/opt/blender/4.2/python/bin", version="3.11.2")


def test_others_are_listed_and_not_counted(tmp_path: Path) -> None:
    image = Image(tmp_path / "image")
    image.base("/usr", "python3.11", "python3")
    copy_by_hand(image.at("/usr/lib/python3.11"))
    of_others(image)
    found = image.scan("--strict")
    root, disk = ({"kind": "root", "directory": place} for place in ("/srv/chroot", "/mnt/disk"))
    blender = {"kind": "product", "directory": "/opt/blender"}
    assert {path: (one["owner"], one["base"], one["stdlib"]) for path, one in found.items()} == {
        "/usr/bin/python3.11": (None, "/usr/bin/python3.11", "/usr/lib/python3.11"),
        "/srv/chroot/usr/bin/python3.11": (
            root, "/srv/chroot/usr/bin/python3.11", "/srv/chroot/usr/lib/python3.11"
        ),
        "/srv/chroot/srv/app/bin/python": (
            root, "/srv/chroot/usr/bin/python3.11", "/srv/chroot/usr/lib/python3.11"
        ),
        "/srv/chroot/srv/orphan/bin/python": (root, "/srv/chroot/opt/gone/bin/python", None),
        "/mnt/disk/opt/conda/bin/python3.12": (
            disk, "/mnt/disk/opt/conda/bin/python3.12", "/mnt/disk/opt/conda/lib/python3.12"
        ),
        "/opt/blender/4.2/python/bin/python3.11": (
            blender, "/opt/blender/4.2/python/bin/python3.11", "/opt/blender/4.2/python/lib/python3.11"
        ),
        "/opt/blender/4.2/venv/bin/python": (
            blender, "/opt/blender/4.2/python/bin/python3.11", "/opt/blender/4.2/python/lib/python3.11"
        ),
    }  # fmt: skip
    text = scan("--root", image.root, "--strict").stdout
    assert "  1 another root's, /mnt/disk\n" in text
    assert "  3 another root's, /srv/chroot\n" in text
    assert "  2 bundled in /opt/blender\n" in text
    assert text.endswith("Covered.\n")


def test_who_looks_into_anothers_directory_has_named_it(tmp_path: Path) -> None:
    image = Image(tmp_path / "image")
    of_others(image)
    for place in ("srv/chroot", "srv/chroot/usr/bin", "opt/blender/4.2", "mnt/disk/opt"):
        assert {one["owner"] for one in image.scan(place, "--strict", status=1).values()} == {None}
    for place in ("srv", "opt", "mnt"):
        assert None not in [one["owner"] for one in image.scan(place, "--strict").values()]


def test_what_the_image_uses_is_its_own(tmp_path: Path) -> None:
    image = Image(tmp_path / "image")
    image.base("/opt/company/runtime", "python3.12")
    (runtime,) = image.scan().values()
    assert runtime["owner"]
    image.venv("/srv/app", "/opt/company/runtime/bin", version="3.12.1")
    assert not any(one["owner"] for one in image.scan().values())
    shutil.rmtree(image.root / "srv")
    image.link("/usr/local/bin/python3", "/opt/company/runtime/bin/python3.12")
    assert not any(one["owner"] for one in image.scan().values())


def test_a_prefix_that_is_named_as_a_standard_library_is(tmp_path: Path) -> None:
    image = Image(tmp_path / "image")
    image.base("/opt/python3.13", "python3.13")
    image.base("/opt/python3.13/lib/python3.13/test", "python3.12")  # what lies in a standard library is none
    assert list(image.scan()) == ["/opt/python3.13/bin/python3.13"]


def test_a_path_stays_in_one_piece(tmp_path: Path) -> None:
    image = Image(tmp_path / "image")
    long = "/opt/python-" + "a-directory-with-quite-a-long-name/" * 3 + "end"
    image.base(long, "python3.12")
    copy_by_hand(image.at(f"{long}/lib/python3.12"))
    out = scan("--root", image.root, COLUMNS="80").stdout
    assert out.count(f"{long}/bin/python3.12") == 3  # in the table, and in the advice what to do about it


def test_starts_nothing_and_writes_nothing(image: Image) -> None:
    code = """
import sys
def hook(event, args):
    if event in ("subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.system", "os.mkdir", "os.rename"):
        raise SystemExit(f"{event} {args}")
    if event == "open" and isinstance(args[2], int) and args[2] & 3:
        raise SystemExit(f"writes {args}")
from blasenv.cli import main
import blasenv.commands.scan
sys.addaudithook(hook)
sys.exit(main(["scan", "--root", sys.argv[1]]) or main(["scan", sys.argv[1]]))
"""
    environ = clean_environ(PYTHONPATH=str(ROOT), PYTHONDONTWRITEBYTECODE="1")
    assert run([sys.executable, "-c", code, image.root], environ=environ).stderr == ""


def test_finds_those_of_this_machine(tmp_path: Path) -> None:
    version = next(version for version, path in PYTHONS.items() if path == NEWEST_TESTED)
    prefix = make_prefix(tmp_path / "prefix", version)
    prefix.venv(tmp_path / "venv")
    # One that runs outside of the walk, and one on PATH only.
    environ = {"PATH": f"{prefix.python.parent}:/usr/bin:/bin"}
    code = "import blasenv.pythons.search as s; s.MAX_DIRECTORIES = 0; print([i.path for i in s.find().interpreters])"
    running = subprocess.Popen([NEWEST_TESTED, "-c", "input()"], stdin=subprocess.PIPE, env=clean_environ())
    try:
        found = run([sys.executable, "-c", code], environ=clean_environ(PYTHONPATH=str(ROOT), **environ)).stdout
    finally:
        running.communicate(b"\n")
    assert str(prefix.python) in found
    assert os.path.realpath(NEWEST_TESTED) in found


def test_mounts_that_are_not_walked() -> None:
    mounts = (
        b"overlay / overlay rw 0 0\nproc /proc proc rw 0 0\nnas:/a /mnt/a\\040b nfs4 rw 0 0\n"
        b"/dev/sdb /data ext4 rw 0 0\nx /twice nfs rw 0 0\n/dev/sdc /twice xfs rw 0 0\nbroken\n"
    )
    assert foreign_mounts(mounts) == {"/proc": "proc", "/mnt/a b": "nfs4"}


def test_does_not_cross_into_a_file_system_that_is_no_disk(tmp_path: Path) -> None:
    image = Image(tmp_path / "image")
    image.base("/usr", "python3.11")
    image.directory("/mnt")
    mount = f"mount -t proc proc {image.root}/mnt"
    if run(["unshare", "--mount", "sh", "-c", mount], status=None).returncode:
        pytest.skip("only root can mount a file system")
    command = f"{mount} && exec {sys.executable} -m blasenv scan --json {image.root}"
    done = run(["unshare", "--mount", "sh", "-c", command], environ=clean_environ(PYTHONPATH=str(ROOT)))
    found = json.loads(done.stdout)
    assert found["notes"] == [f"not looked into: {image.root.resolve()}/mnt (proc)"]
    assert found["directories"] < 10 < MAX_DIRECTORIES


def test_wrong_usage() -> None:
    assert scan("--root", "/nowhere/at/all", status=2).stderr == "blasenv: --root /nowhere/at/all: no such directory\n"
    assert scan("/nowhere/at/all", status=2).stderr == "blasenv: /nowhere/at/all: no such directory\n"


def test_names_that_steer_terminals(tmp_path: Path) -> None:
    image = Image(tmp_path / "image")
    image.base("/opt/\x1b[31m", "python3.12")
    image.base(os.fsdecode(b"/opt/\xff"), "python3.12")
    out = scan("--root", image.root).stdout
    assert "\x1b" not in out
    assert "\\udcff" in out
