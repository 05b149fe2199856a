"""The build steps that plain metadata cannot express: a file at the root of site-packages, and archives of equal bytes.

Named in setup.cfg. Declared as data files, the hook would be missing from editable installs.
"""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HOOK = Path("blasenv", "a0_blasenv.pth")
TEMPLATE = Path("sitecustomize_template")

# An archive holds the modes of its files. What the build writes shall not get them from whoever builds.
os.umask(0o022)


def usual_mode(mode: int) -> int:
    """rw-r--r--, and rwxr-xr-x for what its owner may execute, whatever umask it was made with."""
    return 0o755 if mode & 0o100 else 0o644


class BuildHook(build_py):
    """``build_py`` that also places the hook at the root, and the template inside the package."""

    def run(self) -> None:
        super().run()
        for source, target in self._copies().items():
            self.mkpath(str(target.parent))
            self.copy_file(str(source), str(target))
        for path in () if self.editable_mode else map(Path, self.get_outputs(include_bytecode=False)):
            path.chmod(usual_mode(path.stat().st_mode))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *map(str, self._copies().values())]

    def _copies(self) -> dict[Path, Path]:
        if self.editable_mode:
            # The package itself stays in the checkout; what is here goes into the wheel as it is.
            return {HOOK: Path(self.get_finalized_command("install").install_lib, HOOK.name)}
        built = Path(self.build_lib)
        template = [path for path in sorted(TEMPLATE.glob("*")) if path.is_file()]
        return {HOOK: built / HOOK.name, **{path: built / "blasenv" / path for path in template}}


class SourceArchive(sdist):
    """``sdist`` of the same bytes for the same files, as ``bdist_wheel`` is, when SOURCE_DATE_EPOCH says the time.

    https://reproducible-builds.org/specs/source-date-epoch/
    """

    def make_distribution(self) -> None:
        super().make_distribution()
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        for archive in self.archive_files if epoch else ():
            rewrite(Path(archive), int(epoch or 0))


def rewrite(archive: Path, epoch: int) -> None:
    """Write a .tar.gz anew: its members by name, of nobody's, with usual modes, of the time ``epoch`` in seconds."""
    new = archive.with_name(archive.name + ".new")
    with (
        tarfile.open(archive) as old,
        new.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=epoch) as packed,
        tarfile.open(fileobj=packed, mode="w") as tar,
    ):
        for member in sorted(old.getmembers(), key=lambda member: member.name):
            contents = old.extractfile(member)
            member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
            member.mode = usual_mode(member.mode)
            member.pax_headers = {}
            tar.addfile(member, contents)
    new.replace(archive)
