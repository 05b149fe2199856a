"""What the 48-CPU machine boots: Debian's cloud kernel and an initramfs, both kept in .cache/machine.

The initramfs is two cpio archives, one behind the other, as the kernel allows
(Documentation/driver-api/early-userspace/buffer-format.rst): a large one that rarely changes
(Debian, Python, NumPy, SciPy), and a small one with the wheel under test and the programs.
No disk and no module is needed, so the machine is up as soon as its kernel is.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bases import apt_options, mirror
from process import install, run

HERE = Path(__file__).resolve().parent
CACHE = HERE.parent / ".cache" / "machine"

SUITE = "bookworm"
PYTHON = "3.11"  # of that suite
WHEELS = ("numpy==2.4.6", "scipy==1.17.1")  # OpenBLAS with pthreads, one copy in each
SERVERS = ("gunicorn==27.0.1", "celery==5.7.0")  # and what they need
# The second image is the first, and what only the cases of the full form need.
LEARN = ("scikit-learn==1.9.1", *WHEELS)
PODMAN = ("podman", "crun", "runc", "uidmap")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
SITE = f"usr/local/lib/python{PYTHON}/dist-packages"
LEFT_OUT = ("dev", "proc", "sys", "run", "var/cache", "var/lib/apt", "var/lib/dpkg")
GUEST = ("machine_cases.py", "machine_guest.py", "machine_probe.py", "machine_program.py", "machine_server.py")
PACKAGES = {"qemu-system-x86_64": "qemu-system-x86", "mmdebstrap": "mmdebstrap", "dpkg-deb": "dpkg"}


def install_tools() -> None:
    """Install the programs that make and run the machine, or raise RuntimeError saying which are missing."""
    missing = [package for tool, package in PACKAGES.items() if shutil.which(tool) is None]
    if missing:
        install(*missing)


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A name to write to, which becomes ``path`` when all went well: the cache holds no half files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-") as folder:
        unfinished = Path(folder, path.name)
        yield unfinished
        unfinished.replace(path)


def find_kernel() -> Path:
    """The newest Debian cloud kernel that apt knows, downloaded once per version, else RuntimeError."""
    depends = run(["apt-cache", "depends", "--important", "linux-image-cloud-amd64"])
    names = [line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line]
    if not names:
        raise RuntimeError("apt knows no linux-image-cloud-amd64: run apt-get update, on Debian for amd64")
    version = run(["apt-cache", "show", "--no-all-versions", names[0]]).partition("\nVersion: ")[2].split("\n")[0]
    kernel = CACHE / f"{names[0]}_{version.replace(':', '_')}"
    if not kernel.exists():
        with _new_file(kernel) as unfinished:
            folder = unfinished.parent
            run(["sh", "-c", 'cd "$0" && apt-get download "$1"', folder, names[0]])
            (package,) = folder.glob("*.deb")
            run(["dpkg-deb", "--extract", package, folder / "package"])
            (image,) = folder.glob("package/boot/vmlinuz-*")
            image.rename(unfinished)
    return kernel


def find_base(host: Path, full: bool = False) -> Path:
    """The cpio archive with Debian, Python, NumPy and SciPy, made once per content of this file.

    The ``full`` one has scikit-learn and Podman, too. ``host`` is a Python with pip. Raises RuntimeError when
    something can't be had.
    """
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    base = CACHE / f"{SUITE}-{'full-' * full}{recipe}.cpio"
    if not base.exists():
        with _new_file(base) as unfinished:
            folder = unfinished.parent
            wanted = ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp"]
            wanted += [f"--platform={platform}" for platform in PLATFORMS]
            for wheels in (("--no-deps", *WHEELS), SERVERS, LEARN if full else ()):
                if wheels:
                    run([host, "-m", "pip", "download", "-q", "-d", folder / "wheels", *wanted, *wheels])
            excluded = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")]
            hooks = [
                f"copy-in {folder}/wheels /tmp",
                f'for wheel in "$1"/tmp/wheels/*; do chroot "$1" python3 -m zipfile -e "${{wheel#$1}}" /{SITE}; done',
                f'rm -r "$1"/tmp/wheels; find "$1"/{SITE} -name tests -prune -exec rm -r {{}} +',
                f'chroot "$1" python3 -m compileall -q /usr/lib/python{PYTHON} /{SITE}',
            ]
            options = [
                "--quiet",
                "--variant=minbase",
                f"--include={','.join(('python3', *(PODMAN if full else ())))}",
                *excluded,
                *apt_options(),
            ]
            options += [f"--customize-hook={hook}" for hook in hooks]
            run(["mmdebstrap", *options, SUITE, folder / "base.tar", *mirror()])
            with unfinished.open("wb") as archive, tarfile.open(folder / "base.tar") as tar:
                for member in tar:
                    name = member.name.removeprefix("./").rstrip("/")
                    if not any(name == out or name.startswith(out + "/") for out in LEFT_OUT):
                        write_tar_member(archive, name, tar, member)
                for name in ("dev", "proc", "sys", "run"):
                    write_entry(archive, name, 0o040755, b"")
                write_end(archive)
    return base


def write_initramfs(path: Path, base: Path, wheel: Path) -> None:
    """The base, and behind it /init and /machine: the programs of this folder and the wheel."""
    with path.open("wb") as archive:
        with base.open("rb") as source:
            shutil.copyfileobj(source, archive, 1 << 20)
        write_entry(archive, "init", 0o100755, (HERE / "machine-init.sh").read_bytes())
        write_entry(archive, "machine", 0o040755, b"")
        for program in GUEST:
            write_entry(archive, f"machine/{program}", 0o100644, (HERE / program).read_bytes())
        write_entry(archive, f"machine/{wheel.name}", 0o100644, wheel.read_bytes())
        write_end(archive)


def write_tar_member(archive: IO[bytes], name: str, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Copy a directory, file or symbolic link; a hard link becomes a file of its own."""
    if not name:
        return
    if member.isdir():
        write_entry(archive, name, 0o040000 | member.mode, b"")
    elif member.issym():
        write_entry(archive, name, 0o120777, os.fsencode(member.linkname))
    else:
        contents = tar.extractfile(member)
        if contents is not None:
            write_entry(archive, name, 0o100000 | member.mode, contents.read())


def write_entry(archive: IO[bytes], name: str, mode: int, contents: bytes) -> None:
    """One file in the "newc" format: 13 fields of 8 hexadecimal digits, the name, the contents.

    Name and contents are filled up to a multiple of 4 bytes. A count of one link tells the
    kernel that the inode number, 0 here, is of no importance.
    """
    encoded = os.fsencode(name) + b"\0"
    links = 2 if mode & 0o170000 == 0o040000 else 1
    # inode, mode, user, group, links, time, size, device, device file, length of the name, checksum
    fields = (0, mode, 0, 0, links, 0, len(contents), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + "".join(f"{field:08x}" for field in fields).encode() + encoded
    archive.write(header + bytes(-len(header) % 4))
    archive.write(contents + bytes(-len(contents) % 4))


def write_end(archive: IO[bytes]) -> None:
    """The entry that ends an archive."""
    write_entry(archive, "TRAILER!!!", 0, b"")
