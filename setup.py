"""What pyproject.toml cannot say: a built wheel carries OpenSeadragon, which npm put beside the sources."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

_ROOT = Path(__file__).parent
_LIBRARY = _ROOT / "node_modules" / "openseadragon"
_PARTS = (_LIBRARY / "build" / "openseadragon" / "openseadragon.min.js", _LIBRARY / "LICENSE.txt")


class BuildWithViewer(build_py):
    """Copies the viewer's library into the package that is built; the sources stay without it."""

    def run(self) -> None:
        super().run()
        # An editable install finds it where npm puts it.
        if self.editable_mode:
            return
        missing = [path for path in _PARTS if not path.is_file()]
        if missing:
            self.warn("built without OpenSeadragon, so the viewer page shows no slides: run 'make viewer' first")
            return
        target = Path(self.build_lib) / "service" / "viewer" / "vendor"
        self.mkpath(str(target))
        for path in _PARTS:
            self.copy_file(str(path), str(target / path.name))


setup(cmdclass={"build_py": BuildWithViewer})
