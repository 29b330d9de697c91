"""Trains the first steps of a record's seed again: the repository's harness, the record's optimizers/.

A replay runs all the code that a log carries, so that it agrees with a log whose own harness is forged. Here
the harness is the checkout's HEAD, taken from git; of the log there are the files of optimizers/ alone, and
they run without a network where the system allows it, in a folder that they cannot write to.
"""
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from speedrun import launch
from speedrun.cli import Refusal
from speedrun.log import git
from speedrun.log.folder import SUFFIXES, logs_in
from speedrun.log.format import Log, now
from speedrun.log.reader import read_log
from speedrun.log.run import LoggedRun
from speedrun.text import printable
from speedrun.verify.challenged import CHALLENGE, TOLERANCE, drawn_seed, last_hash
from speedrun.verify.history import History
from speedrun.verify.verdict import check_log

NOT_HARNESS = ("optimizers/", "tests/", "scripts/")
KEPT = ("PATH", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "LANG", "TMPDIR")  # of the environment
ISOLATED = ["unshare", "--user", "--map-root-user", "--net"]


@dataclass(frozen=True)
class Challenge:
    """What is to be trained again of a record."""

    path: Path        # the record's folder, or a log
    logs: list[Log]
    log: Log          # the one that has the seed
    seed: int
    steps: int        # from the start: to its first validation after step 0

    @property
    def run(self) -> LoggedRun:
        return LoggedRun.of(self.log, 0)


def read_challenge(path: Path) -> Challenge:
    """The seed that a record's logs draw, and how far. Refusal for what does not verify, is a fork or of a
    custom track, or carries no optimizers/."""
    files = sorted(f for f in path.iterdir() if f.suffix in SUFFIXES) if path.is_dir() else [path]
    logs = [read_log(file) for file in files]
    if not logs:
        raise Refusal(f"{printable(path, 400)} holds no log (.txt, .gz, .xz); name a record's folder", code=2)
    for log in logs:
        if failures := check_log(log):
            raise Refusal(f"{failures[0]}; only a log that verifies is challenged")
    seed = drawn_seed(logs)
    log = next(log for log in logs if seed in log.series)
    run = LoggedRun.of(log, 0)
    if not run.official or run.start[0] or "+" in run.recipe.name:
        raise Refusal(f"{printable(path, 400)}: runs of a custom track, of an overridden recipe and forks "
                      "are on no board, so there is nothing to challenge")
    if "optimizers/recipes.py" not in log.sources:
        raise Refusal(f"{printable(path, 400)} carries no optimizers/recipes.py, so nothing can be run")
    steps = next(point.step for point in log.series[seed] if point.step > 0)
    return Challenge(path, logs, log, seed, steps)


########################################
#             The checkout             #
########################################


def assemble(folder: Path, challenge: Challenge, commit: str, history: History) -> None:
    """Write the harness of `commit`, from git, and the log's optimizers/ into the new `folder`; read-only."""
    for path in history.tree(commit):
        if path.endswith(".py") and not path.startswith(NOT_HARNESS):
            text = git.ask(history.root, "cat-file", "blob", f"{commit}:{path}")
            _write(folder / path, (text or "") + "\n")
    for path, text in challenge.log.sources.items():
        if path.startswith("optimizers/"):
            _write(folder / path, text)
    for top, _, files in os.walk(folder, topdown=False):
        for file in files:
            os.chmod(os.path.join(top, file), stat.S_IRUSR)
        os.chmod(top, stat.S_IRUSR | stat.S_IXUSR)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def remove(folder: Path) -> None:
    """Delete an assembled folder, which is read-only."""
    for top, _, _ in os.walk(folder):
        os.chmod(top, stat.S_IRWXU)
    shutil.rmtree(folder, ignore_errors=True)


def isolation() -> tuple[list[str], str]:
    """The words before a command that cut it off from the network, and what they do; none where the system
    does not allow that."""
    try:
        done = subprocess.run([*ISOLATED, "true"], capture_output=True, timeout=20)
        if done.returncode == 0:
            return ISOLATED, "no network (unshare)"
    except (OSError, subprocess.SubprocessError):
        pass
    return [], "the network was not cut off: this system has no unshare"


def training_words(folder: Path, challenge: Challenge, data_dir: Path, log_dir: Path) -> list[str]:
    """The command. Its environment is empty but for what finds programs and devices: no variable or folder
    of the user's (-E, -s) decides what is imported, and no secret is there to be read. Threads: the log's."""
    run = challenge.run
    kept = [f"{name}={os.environ[name]}" for name in KEPT if name in os.environ]
    kept += [f"HOME={log_dir.parent}", f"OMP_NUM_THREADS={run.header['hardware']['threads']}",
             "OMP_WAIT_POLICY=passive"]
    return ["env", "-i", *kept, sys.executable, "-E", "-s", "-B", str(folder / "train_gpt.py"),
            f"--track={run.track.name}", f"--recipe={run.recipe.name}", f"--seeds={challenge.seed}",
            f"--steps={challenge.steps}", f"--device={run.header['hardware']['device']}",
            *run.command.training(track=None, recipe=None, seeds=None, device=None).words,
            "--data-dir", str(data_dir), "--log-dir", str(log_dir)]


########################################
#              The outcome             #
########################################


def train(challenge: Challenge, commit: str, history: History, data_dir: Path,
          on_line: Callable[[str], None]) -> tuple[dict, str]:
    """step -> loss of the seed as it trains again with the harness of `commit`, and how it was isolated.
    Refusal where the run does not end well."""
    top = Path(tempfile.mkdtemp(prefix="challenge_")).resolve()
    try:
        (top / "code").mkdir()
        assemble(top / "code", challenge, commit, history)
        before, how = isolation()
        words = before + training_words(top / "code", challenge, data_dir.absolute(), top / "log")
        code, why = launch.run(words, top, on_line)
        if code:
            raise Refusal(f"the challenge could not be trained with the harness of {commit[:10]}: {why}")
        again = read_log(logs_in(top / "log")[0])
        return {point.step: point.val_loss for point in again.series[challenge.seed]}, how
    finally:
        remove(top)


def challenge_record(challenge: Challenge, history: History, data_dir: Path, on_line, by: str,
                     harness: str = "HEAD") -> dict:
    """Train, compare; what challenge.json then holds. The harness is that of `harness`, a commit that HEAD
    descends from; where it cannot run the record's older optimizers/, that of the record's own commit."""
    if history.missing:
        raise Refusal(f"the harness is taken from git, and {history.missing}")
    head = git.ask(history.root, "rev-parse", "--verify", f"{harness}^{{commit}}")
    if head not in history.commits:
        raise Refusal(f"--harness {printable(harness, 60)}: no commit that HEAD descends from", code=2)
    own = (challenge.run.header["git"] or {}).get("commit")
    try:
        losses, how = train(challenge, head, history, data_dir, on_line)
        commit = head
    except Refusal:
        if own == head or own not in history.commits:
            raise
        losses, how = train(challenge, own, history, data_dir, on_line)
        commit = own
    return result(challenge, losses, commit, how, by)


def result(challenge: Challenge, losses: dict, commit: str, how: str, by: str) -> dict:
    """The outcome as plain JSON: what was trained, with what, and whether it agrees with the log."""
    logged = {point.step: point.val_loss for point in challenge.log.series[challenge.seed]}
    points = [dict(step=step, log=logged[step], loss=loss) for step, loss in sorted(losses.items())
              if step in logged]
    largest = max((abs(point["loss"] - point["log"]) for point in points), default=None)
    return dict(last_hash=last_hash(challenge.logs), seed=challenge.seed, steps=challenge.steps,
                points=points, largest=None if largest is None else round(largest, 5), tolerance=TOLERANCE,
                agrees=largest is not None and largest <= TOLERANCE and max(losses) >= challenge.steps,
                harness=commit, isolation=how, by=by, when=now())


def write(found: dict, path: Path) -> Path:
    """challenge.json beside the logs of the record at `path`."""
    file = (path if path.is_dir() else path.parent) / CHALLENGE
    file.write_text(json.dumps(found, indent=1) + "\n")
    return file


def unlike(challenge: Challenge, history: History) -> list[str]:
    """The files of the record's optimizers/ that are of no commit that HEAD descends from: a stranger's."""
    own = {path: text for path, text in challenge.log.sources.items() if path.startswith("optimizers/")}
    state = challenge.run.header["git"]
    commit = state["commit"] if state and state["commit"] in history.commits else "HEAD"
    return history.altered(commit, own)

