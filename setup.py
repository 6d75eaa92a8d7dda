"""What pyproject.toml cannot say: a built wheel carries what its pages need from npm, which put it beside the sources."""

import json
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

_ROOT = Path(__file__).parent


class BuildWithLibraries(build_py):
    """Copies the pages' libraries into the package that is built; the sources stay without them."""

    def run(self) -> None:
        super().run()
        # An editable install finds them where npm puts them.
        if self.editable_mode:
            return
        listed = json.loads((_ROOT / "package.json").read_text(encoding="utf-8"))["vendored"]
        found = {name: _ROOT / "node_modules" / place for name, place in listed.items()}
        if missing := [name for name, path in found.items() if not path.is_file()]:
            self.warn(f"built without {', '.join(missing)}, so the viewer shows no slides: run 'make viewer' first")
            return
        target = Path(self.build_lib) / "service" / "viewer" / "vendor"
        self.mkpath(str(target))
        for name, path in found.items():
            self.copy_file(str(path), str(target / name))


setup(cmdclass={"build_py": BuildWithLibraries})
