"""Runs of train_gpt.py that are quick, in this process, as a process, and under torchrun."""
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import train_gpt
from speedrun import ROOT
from speedrun.log.reader import read_log
from tests.support.ranks import Trainer

# The laptop track on few validation tokens, which makes it `custom` and a run quick.
SMALL = ["--track.context", "64", "--track.tokens_per_step", "1024", "--track.model.num_layers", "2",
         "--track.model.model_dim", "64"]  # for what does not depend on the size
QUICK = ["--device", "cpu", "--track", "laptop", "--allow-custom", "--track.val_tokens", "8192"]


def train(capsys, laptop, folder, *args):
    """Run main in this process; its JSON and its log."""
    code = train_gpt.main([*QUICK, "--data-dir", laptop, "--log-dir", folder, "--json", *args])
    out = capsys.readouterr()
    assert code == 0, out.err
    result = json.loads(out.out)
    return result, read_log(result["log"])


def start(laptop, folder, *args, ranks=1, **more):
    """The trainer as a process, on a small model; under torchrun where ranks > 1."""
    words = [*QUICK, *SMALL, "--data-dir", laptop, "--log-dir", folder, *args]
    if ranks == 1:
        return Trainer(words, folder.parent, **more)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return subprocess.Popen(list(map(str, [*torchrun, ROOT / "train_gpt.py", *words])),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def wait_for(process, folder, pattern, seconds=60):
    """Until the log matches."""
    deadline = time.monotonic() + seconds
    while not any(re.search(pattern, path.read_text()) for path in folder.glob("*.txt")):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate(timeout=9)
        time.sleep(0.02)


def losses(log):
    return {seed: [(p.step, p.val_loss) for p in points] for seed, points in log.series.items()}


def the_log(folder):
    return read_log(next(Path(folder).glob("*.txt")))


def refused(capsys, *args, code=2):
    assert train_gpt.main(list(args)) == code
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith("train_gpt.py: "), err
    return err
