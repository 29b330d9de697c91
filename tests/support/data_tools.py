"""The commands of data/ in this process."""
import os
import subprocess
import sys
from pathlib import Path

from data import sample

DATA = Path(sample.__file__).parent


def run(script, *args, **env):
    """The command in a process of its own, from another folder; its stderr is never a traceback."""
    clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and k[:3] != "HF_"}
    done = subprocess.run([sys.executable, DATA / script, *map(str, args)], cwd="/", capture_output=True,
                          text=True, env=clean | {k: str(v) for k, v in env.items()}, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def refused(capsys, main, *args, code=1):
    """The one line with which `main(args)` refuses."""
    assert main(args) == code
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1, err
    return err
