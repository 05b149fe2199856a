"""The build step that plain metadata cannot express: a file at the root of site-packages.

Named in setup.cfg. Declared as data files, the hook would be missing from editable installs.
"""

from __future__ import annotations

from pathlib import Path

from setuptools.command.build_py import build_py

HOOK = Path("blasenv", "a0_blasenv.pth")
TEMPLATE = Path("sitecustomize_template")


class BuildHook(build_py):
    """``build_py`` that also places the hook at the root, and the template inside the package."""

    def run(self) -> None:
        super().run()
        for source, target in self._copies().items():
            self.mkpath(str(target.parent))
            self.copy_file(str(source), str(target))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *map(str, self._copies().values())]

    def _copies(self) -> dict[Path, Path]:
        if self.editable_mode:
            # The package itself stays in the checkout; what is here goes into the wheel as it is.
            return {HOOK: Path(self.get_finalized_command("install").install_lib, HOOK.name)}
        built = Path(self.build_lib)
        template = [path for path in sorted(TEMPLATE.glob("*")) if path.is_file()]
        return {HOOK: built / HOOK.name, **{path: built / "blasenv" / path for path in template}}
