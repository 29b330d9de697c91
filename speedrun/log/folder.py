"""The folder of a run and of a record: what files are called, who may write in it, which file is its log."""
import re
import shutil
from pathlib import Path

from speedrun.cli import Refusal


def lock_folder(folder: Path):
    """Make `folder`, lock it until the returned file is closed or the process ends.

    Refusal where it cannot be written, another run holds it, or the disk has less than 64 MB left.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")
    except OSError as error:
        raise Refusal(f"cannot write in the log folder {folder} ({error.strerror}); "
                      "choose another with --log-dir") from None
    try:
        import fcntl
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # no flock on Windows: the folder is then not guarded
        pass
    except OSError:
        raise Refusal(f"another run is writing in {folder}; wait for it, or choose "
                      "another --log-dir") from None
    if shutil.disk_usage(folder).free < 64 * 2**20:
        raise Refusal(f"less than 64 MB free in the log folder {folder}; free space, or choose "
                      "another --log-dir")
    return lock

CHECKPOINT = re.compile(r"checkpoint_(\d+)_(\d+)\.(?:json|pt)")


def the_log(folder: Path) -> Path:
    """The one log of a run's folder. Refusal where there is none, or more than one."""
    if not folder.is_dir():
        what = "is a file; name the folder it lies in" if folder.exists() else "there is no such folder"
        raise Refusal(f"--resume {folder}: {what}", code=2)
    logs = sorted(folder.glob("*.txt"))
    if len(logs) != 1:
        raise Refusal(f"--resume {folder}: it holds {len(logs)} logs (*.txt), not one; name the --log-dir "
                      "of a run", code=2)
    return logs[0]

SUFFIXES = (".txt", ".gz", ".xz")
FOLDER_NAME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})_(.+)")
ABOUT = "record.json"  # what a record's folder may say that its logs cannot: {"author": "..."}
