"""What every command shares: bad input is answered by one line on stderr, never by a traceback.

Exit codes: 0 done, 1 a check failed or the run could not go on, 2 the command line is wrong.
"""
import argparse
import difflib
import functools
import importlib.util
import json
import math
import os
import shlex
import signal
import sys
import time
from pathlib import Path


class Refusal(Exception):
    """A stop that the person at the terminal can fix. `message` is one line: cause, cost, fix.

    code: 1 for a failed check or run, 2 for wrong usage.
    everywhere: every rank raises the same refusal, so only one of them prints it.
    status: what the log of a run that it ends says.
    """

    status = "failed"

    def __init__(self, message: str, code: int = 1, everywhere: bool = True):
        super().__init__(" ".join(message.split()))
        self.code, self.everywhere = code, everywhere


class Parser(argparse.ArgumentParser):
    """argparse whose errors are Refusals (exit 2) and whose help keeps the example as it is written."""

    def __init__(self, **options):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        options.setdefault("allow_abbrev", False)
        super().__init__(**options)

    def error(self, message):
        raise Refusal(f"{message} (see `{self.prog} --help`)", code=2)


def stop_signals() -> list:
    """The signals that ask a run to stop; without a SIGHUP that is ignored, as under nohup. (A shell ignores
    SIGINT in what it starts in the background, but whoever sends one means it.)"""
    hangup = getattr(signal, "SIGHUP", None)  # Windows has none
    heard = hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *[hangup] * heard]


def go_on(folder) -> str:
    """The option that continues the run in `folder`, to be pasted into a shell."""
    return f"--resume {shlex.quote(str(folder))}"


def near(name: str, known) -> str:
    """The end of an error about an unknown name: the near matches, else all that is known."""
    known = [str(k) for k in known]
    if not known:
        return "it has none"
    matches = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(matches)}?" if matches else f"known: {', '.join(known)}"


def finite(text: str) -> float:
    """A number that is neither nan nor infinite: a type for an argument."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def command(main):
    """Decorator: `main(argv)` returns the exit code and answers a Refusal or a full disk with one line."""

    @functools.wraps(main)
    def wrapped(argv=None) -> int:
        name = os.path.basename(sys.argv[0]) if argv is None else main.__module__.rsplit(".", 1)[-1] + ".py"
        try:
            return main(sys.argv[1:] if argv is None else [str(a) for a in argv]) or 0
        except Refusal as refusal:
            if not refusal.everywhere or os.environ.get("LOCAL_RANK", "0") == "0":
                print(f"{name}: {refusal}", file=sys.stderr, flush=True)
            elif "TORCHELASTIC_RUN_ID" in os.environ:
                # torchrun ends all ranks with the first one: let that be rank 0, which speaks. After a signal
                # torchrun waits for every rank before it ends itself.
                time.sleep(1 if refusal.code > 128 else 60)
            return refusal.code
        except BrokenPipeError:  # the reader of a pipe has seen enough: `... --list | head -1`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except OSError as error:  # a full disk, a missing permission, a path that is a folder
            print(f"{name}: {error.strerror or error}: {error.filename or 'no file named'}; "
                  "free the space or fix the path and run the command again", file=sys.stderr, flush=True)
            return 1
        except RuntimeError as error:
            if type(error).__name__ != "OutOfMemoryError":  # torch's, which not every command imports
                raise
            print(f"{name}: a GPU's memory is full ({' '.join(str(error).split())[:200]}); use larger GPUs, "
                  "or more of them", file=sys.stderr, flush=True)
            return 1
        except KeyboardInterrupt:
            print(f"{name}: interrupted", file=sys.stderr, flush=True)
            return 130

    return wrapped


def need(*packages: str) -> None:
    """End the program with one line, in its own name, where one of these packages is not installed. For the
    top of a script, before imports that would end in a traceback or in the words of another program."""
    root, script = Path(__file__).resolve().parents[1], Path(sys.argv[0]).resolve()
    for name in packages:
        if importlib.util.find_spec(name) is None:
            path = script.relative_to(root) if script.is_relative_to(root) else script.name
            sys.exit(f"{script.name}: No module named {name!r}; run scripts/setup.sh and then "
                     f".venv/bin/python {path}")


def print_json(result: dict) -> None:
    """The one JSON object that `--json` promises."""
    print(json.dumps(result), flush=True)
