"""What recipe a name stands for, by the optimizers/ of a commit: asked in a process of its own."""
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from tracks import TRACKS

SECONDS = 120
ASK = """
import json, sys
sys.path.insert(0, sys.argv[1])
from optimizers import RECIPES, resolve
tracks = json.loads(sys.argv[2])
print(json.dumps({name: {track: resolve(name, track).resolved() for track in tracks} for name in RECIPES}))
"""
_known: dict[str, dict | None] = {}


def recipes_of(code: str, sources: dict[str, str]) -> dict | None:
    """name -> track -> the resolved recipe, by the optimizers/ among `sources`; None where they do not run.

    They are run, so a caller gives only sources that a commit of this checkout's history holds. The process
    is isolated (`python -I`: no variable or folder of the caller decides what it imports), and torch must be
    installed. code: the sha256 of the sources, by which an answer is kept for the next log of the same.
    """
    if code not in _known:
        _known[code] = _ask({path: text for path, text in sources.items() if path.startswith("optimizers/")})
    return _known[code]


def can_ask() -> bool:
    """Whether torch is installed, which optimizers/ need."""
    return importlib.util.find_spec("torch") is not None


def _ask(sources: dict[str, str]) -> dict | None:
    with tempfile.TemporaryDirectory(prefix="names_") as folder:
        for path, text in sources.items():
            target = Path(folder) / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(text.encode())
        words = [sys.executable, "-I", "-B", "-c", ASK, folder, json.dumps(sorted(TRACKS))]
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, cwd=folder,
                                  stdin=subprocess.DEVNULL)
            found = json.loads(done.stdout) if done.returncode == 0 else None
        except (OSError, ValueError, subprocess.SubprocessError):
            return None
    return found if isinstance(found, dict) else None
