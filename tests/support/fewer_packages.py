"""A script as a process in which some packages are not installed."""
import subprocess
import sys

from speedrun import ROOT

WITHOUT = """
import importlib.machinery, runpy, sys
class Fewer(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {hidden} else super().find_spec(name, path, target)
sys.meta_path[:] = [Fewer if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
sys.argv[:] = {argv!r}
sys.path.insert(0, {root!r})
runpy.run_path({argv[0]!r}, run_name="__main__")
"""


def without(hidden: tuple[str, ...], script: str, *words) -> subprocess.CompletedProcess:
    """What `SCRIPT WORDS` does without the `hidden` packages, from a folder that is not the repository."""
    code = WITHOUT.format(hidden=hidden, argv=[str(ROOT / script), *map(str, words)], root=str(ROOT))
    return subprocess.run([sys.executable, "-c", code], cwd="/", capture_output=True, text=True, timeout=120)
