"""The folder of a run and of a record: what files are called, who may write in it, which file is its log."""
import re
import shutil
from pathlib import Path

from speedrun.cli import Refusal

SUFFIXES = (".txt", ".gz", ".xz")          # of logs; a run's own ends in .txt
BESIDE = (".md", ".json", ".png")          # of what may lie beside the logs of a record
FOLDER_NAME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})_(.+)")  # of a record
ABOUT = "record.json"                      # what its logs cannot say: {"author": "..."}
LOCK, RUN_ID = ".lock", ".run_id"          # the trainer's own: held while it runs; torchrun's id of the run
CHECKPOINT = re.compile(r"checkpoint_(\d+)_(\d+)\.(?:json|pt)")


def checkpoint_name(number: int, step: int) -> str:
    """The name of the checkpoint of the `number`-th seed declared, before `step`; without a suffix."""
    return f"checkpoint_{number:03d}_{step:07d}"


def lock_folder(folder: Path):
    """Make `folder`, lock it until the returned file is closed or the process ends.

    Refusal where it cannot be written, another run holds it, or the disk has less than 64 MB left.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / LOCK, "w")
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


def logs_in(folder: Path) -> list[Path]:
    """The logs that runs wrote in `folder`."""
    return sorted(folder.glob("*.txt"))


def the_log(folder: Path) -> Path:
    """The one log of a run's folder. Refusal where there is none, or more than one."""
    if not folder.is_dir():
        what = "is a file; name the folder it lies in" if folder.exists() else "there is no such folder"
        raise Refusal(f"--resume {folder}: {what}", code=2)
    logs = logs_in(folder)
    if len(logs) != 1:
        raise Refusal(f"--resume {folder}: it holds {len(logs)} logs (*.txt), not one; name the --log-dir "
                      "of a run", code=2)
    return logs[0]
