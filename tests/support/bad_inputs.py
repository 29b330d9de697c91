"""Inputs that no command can work with: made from lists and from mutations of good files, the same each time.

Every function gives (name, file) or (name, words): what tests/commands/test_malformed.py hands to the
commands. In words, {NAME} is the made file or folder of that name.
"""
import gzip
import json
import lzma
import random
from pathlib import Path

import numpy as np

from tests.support.made_logs import make_log, parts, rechain

DEEP = "[" * 100_000 + "]" * 100_000
SMALL = ["--device", "cpu", "--track", "laptop", "--allow-custom", "--track.val_tokens", "2048"]

########################################
#               Shards                 #
########################################


def header(*numbers, order="<"):
    return np.array([*numbers, *[0] * (256 - len(numbers))], dtype=f"{order}i4").tobytes()


def shards(good: bytes):
    """(name, content) of a shard that is none; `good` is one."""
    count, noise = (len(good) - 1024) // 2, random.Random(0)
    yield from {
        "empty": b"", "one byte": good[:1], "half a header": good[:512], "only a header": good[:1024],
        "cut": good[:-1], "cut in the middle": good[:len(good) // 2], "longer": good + b"x",
        "no magic": header(0, 1, count) + good[1024:], "big-endian": header(20240520, 1, count, order=">"),
        "version": header(20240520, 2, count) + good[1024:],
        "negative count": header(20240520, 1, -1), "count too large": header(20240520, 1, 2**31 - 1),
        "one token more": header(20240520, 1, count + 1) + good[1024:], "no token": header(20240520, 1, 0),
        "other tokens": good[:1024] + b"\xff\xff" * count, "text": b"hello\n" * 1000,
        "gzip": gzip.compress(good, mtime=0), "zeros": bytes(len(good)),
        "noise": bytes(noise.randrange(256) for _ in range(4096)), "a folder": None,
        "a link to nothing": "none",
    }.items()


def shard_folder(folder: Path, laptop: Path, split: str, content) -> Path:
    """A copy of the laptop track's shards whose one of `split` is `content`."""
    folder.mkdir()
    for path in laptop.glob("*.bin"):
        if f"_{split}_" not in path.name:
            (folder / path.name).symlink_to(path)
        elif content is None:
            (folder / path.name).mkdir()
        elif isinstance(content, str):
            (folder / path.name).symlink_to(folder / content)
        else:
            (folder / path.name).write_bytes(content)
    return folder


########################################
#                Logs                  #
########################################


def edited(whole: str, start: str, change) -> str:
    """A log whose first event that begins with `start` is changed by `change` (of its JSON), hashes anew."""
    pieces = parts(whole)
    piece = next(piece for piece in pieces if piece[0].startswith(start))
    kind, _, data = piece[0].rsplit(" #", 1)[0].partition(" {")
    found = json.loads("{" + data)
    change(found)
    piece[0] = f"{kind} {json.dumps(found)} #0\n"
    return rechain(pieces)


def logs(whole: str):
    """(name, content) of a log that tells nothing; `whole` is one that does."""
    data = whole.encode()
    head = whole.index("\n@ run ")
    yield from {
        "empty.txt": b"", "binary.txt": bytes(range(256)) * 9, "prose.txt": b"It went well.\n",
        "first line.txt": data[:whole.index("\n") + 1], "sources only.txt": data[:head + 1],
        "half a header.txt": data[:head + 40], "no header.txt": data[:head] + b"\n",
        "NUL.txt": b"\0" * 5000, "latin.txt": "é".encode("latin-1"), "utf-16.txt": whole.encode("utf-16"),
        "deep.txt": b"@ log " + DEEP.encode(), "cut.gz": gzip.compress(data, mtime=0)[:-9],
        "no gzip.gz": data, "cut.xz": lzma.compress(data)[:-20], "no xz.xz": b"\xfd7zXZ\0" + data[:100],
        "trailing.gz": gzip.compress(data, mtime=0) + b"x", "a folder.txt": None,
    }.items()
    for name, change in HEADERS.items():
        yield f"header, {name}.txt", edited(whole, "@ run", change).encode()


HEADERS = {
    "nothing": lambda h: h.clear(), "seeds of words": lambda h: h.update(seeds=["a"]),
    "no seeds": lambda h: h.pop("seeds"), "seeds null": lambda h: h.update(seeds=None),
    "recipe null": lambda h: h.update(recipe=None), "recipe a list": lambda h: h.update(recipe=[1]),
    "track a word": lambda h: h.update(track="laptop"), "command a number": lambda h: h.update(command=7),
    "command unclosed": lambda h: h.update(command='train_gpt.py "--seeds'),
    "command unknown": lambda h: h.update(command="train_gpt.py --nonsense"),
    "data null": lambda h: h.update(data=None), "steps a word": lambda h: h["recipe"].update(steps="many"),
}


########################################
#             Command lines            #
########################################

# of train_gpt.py, and of scripts/preflight.py, which takes the same
TRAINER = [line.split() for line in """
--track lap
--track
--track.context
--recipe aurra
--recipe=
--seeds
--seeds one
--seeds 1.5
--seeds -1
--seeds 1 1
--seeds 99999999999999999999
--steps 0
--steps -5
--steps 1e3
--steps 99999999999999999999
--steps 301
--val-every 0
--val-every -1
--checkpoint-every 0
--checkpoint-every x
--device tpu
--resume {absent}
--resume {empty folder}
--resume {a file}
--data-dir {a file}
--data-dir {absent}
--data-dir {empty folder}
--log-dir {a file}
--log-dir {a file}/inside
--allow-custom=yes
--lr 0.1
--recipe.lr
--recipe.lr fast
--recipe.lr nan
--recipe.lr inf
--recipe.lr -1
--recipe.lr 1e400
--recipe.lrr 1
--recipe. 1
--recipe.lr.x 1
--recipe.steps 1.5
--recipe.steps 1000000000000000000000000
--recipe.schedule_steps 0
--recipe.momentum 1
--recipe.momentum nan
--recipe.weight_decay inf
--recipe.warmup_steps -1
--recipe.warmup_steps 100000
--recipe.cooldown_frac 2
--recipe.name
--recipe.matrices 1
--recipe.matrices.BalancedPolar.iterations 0
--recipe.matrices.BalancedPolar.iterations 99999999999
--recipe.matrices.BalancedPolar.beta x
--recipe.matrices.Nonsense.beta 1
--recipe.balance.up row
--recipe.aux none
--recipe.init.embed x
--track.context 128
--allow-custom --track.context 0
--allow-custom --track.context -256
--allow-custom --track.context 7
--allow-custom --track.tokens_per_step 1
--allow-custom --track.tokens_per_step 256000000000000
--allow-custom --track.val_tokens 0
--allow-custom --track.val_tokens 1000000000000
--allow-custom --track.val_every 0
--allow-custom --track.tail 2
--allow-custom --track.tail nan
--allow-custom --track.nonsense 1
--allow-custom --track.sha256 1
--allow-custom --track.model 1
--allow-custom --track.model.model_dim 1099511627776
--allow-custom --track.model.model_dim 0
--allow-custom --track.model.num_layers 0
--allow-custom --track.model.num_layers 1000000000
--allow-custom --track.model.vocab_size 0
--allow-custom --track.model.vocab_size 10000000000000000000000
--allow-custom --track.model.mlp_ratio inf
--allow-custom --track.model.mlp_ratio nan
--allow-custom --track.model.mlp_ratio 0
--allow-custom --track.model.mlp_ratio 1e300
--allow-custom --track.model.head_dim -4
--allow-custom --track.model.head_dim 6
--allow-custom --track.model.dtype float64
--allow-custom --track.model.mlp gelu
""".strip().splitlines()]

# (file of the command, its words)
OTHERS = [(line.split()[0], line.split()[1:]) for line in """
data/sample.py --out
data/sample.py --out {a file}
data/sample.py --out {a file}/inside
data/cached_fineweb10B.py 0
data/cached_fineweb10B.py 104
data/cached_fineweb10B.py -1
data/cached_fineweb10B.py many
data/cached_fineweb10B.py 1 2
data/cached_fineweb10B.py 99999999999999999999
data/tokenize_text.py
data/tokenize_text.py {absent}.txt --out {out} --tokenizer bytes
data/tokenize_text.py {a file} --out {out} --tokenizer bytes
data/tokenize_text.py {prose.txt} --out {a file} --tokenizer bytes
data/tokenize_text.py {prose.txt} --out {out} --tokenizer bytes --shard-tokens 0
data/tokenize_text.py {prose.txt} --out {out} --tokenizer bytes --val-tokens 99999999
data/tokenize_text.py {deep.jsonl} --out {out} --tokenizer bytes
data/tokenize_text.py {lists.jsonl} --out {out} --tokenizer bytes
data/tokenize_text.py {binary.parquet} --out {out} --tokenizer bytes
data/tokenize_text.py hf://datasets/ --out {out} --tokenizer bytes
scripts/verify.py
scripts/verify.py {absent}
scripts/stats.py
scripts/stats.py nonsense
scripts/stats.py one
scripts/stats.py one {absent} --step 1
scripts/stats.py one {whole.txt} --step -1
scripts/stats.py one {whole.txt} --target nan
scripts/stats.py pair --a {whole.txt}
scripts/stats.py pair --a {whole.txt} --b {absent}
scripts/stats.py pair --a {whole.txt} --b {whole.txt} --step 99
scripts/stats.py power --margin 0
scripts/stats.py power --margin inf
scripts/stats.py power --margin 1e-300
scripts/stats.py power --difference 0.01 --correlation 2
scripts/stats.py power --margin 0.01 --power 1
scripts/stats.py plan --looks 0 --margin 0.01
scripts/stats.py plan --looks 4 2 --margin 0.01
scripts/stats.py plan --looks 99999999999999 --margin 0.01
scripts/report.py {whole.txt}
scripts/report.py {whole.txt} --out {a file}
scripts/report.py {absent} --out {out}
scripts/leaderboard.py --records {absent}
scripts/leaderboard.py --records {a file}
scripts/leaderboard.py --check --records {empty folder}
scripts/replay.py
scripts/replay.py {absent}
scripts/replay.py {whole.txt} --seed 77
scripts/replay.py {whole.txt} --seed x
scripts/compare.py --a x
scripts/compare.py --a x --b y --pairs 0
scripts/compare.py --a "--track --b "" --pairs 1
scripts/compare.py --a --recipe --b --recipe --pairs 1
scripts/compare.py --a=--nonsense --b=--nonsense --pairs 1 --out {out}
scripts/compare.py --a= --b= --pairs 99999999999 --nproc 0
scripts/export.py
scripts/export.py aurra
scripts/export.py aurora
scripts/export.py aurora --upstream {absent}
scripts/export.py aurora --upstream {prose.txt}
scripts/export.py aurora --upstream {binary.txt}
scripts/ingest.py
scripts/ingest.py {absent}
scripts/ingest.py {empty folder}
scripts/ingest.py {a file}
scripts/preflight.py --nproc 0
scripts/preflight.py --nproc x
speedrun/training/needs.py --track lap
speedrun/training/needs.py --steps x
scripts/sweep.py --recipe muon
scripts/sweep.py --recipe muon --lr x --weight-decay 0 --out {out}
scripts/sweep.py --recipe muon --lr 1 --weight-decay 0 --out {a file}
scripts/sweep.py --recipe muon --lr 1 --weight-decay 0 --out {deep.json}
scripts/sweep.py --recipe muon --lr 1 --weight-decay 0 --out {rows.json} --seeds 100
scripts/sweep.py --recipe muon --lr 1 --weight-decay 0 --out {absent}/inside/x
scripts/sweep.py --recipe muon --lr 1 --weight-decay 0 --out {out} --jobs 0
scripts/bench_optimizers.py --stack 3
scripts/bench_optimizers.py --stack 0x4:1
scripts/bench_optimizers.py --repeat 0
scripts/bench_optimizers.py --only nonsense
tests/bench/bench_verify.py --logs 0
tests/bench/bench_verify.py --lines x
tests/bench/bench_leaderboard.py --records 0
scripts/fork.py --trunk {out}
scripts/fork.py --trunk {out} --at 0 --variants muon
scripts/fork.py --trunk {out} --at x --variants muon aurora
scripts/fork.py --trunk {out} --at 5 --variants muon aurra
scripts/fork.py --trunk {a file} --at 5 --variants muon muon
scripts/fork.py --trunk {out} --at 999999 --variants muon aurora --track laptop
scripts/study.py nonsense
scripts/study.py {absent}.toml
scripts/study.py {binary.toml}
scripts/study.py {unclosed.toml}
scripts/study.py {numbers.toml}
scripts/study.py --jobs 0
""".strip().splitlines()]

MANIFESTS = {"deep": DEEP, "deep in a file": '{"files": ' + DEEP + "}", "list": "[]",
             "huge size": '{"files": {"a.bin": {"size": 1e999, "sha256": "", "mtime_ns": 1, "commit": ""}}}',
             "cut": '{"files": {"a.bi'}


def workshop(folder: Path) -> dict[str, Path]:
    """The files that the words above name; those not made are absent."""
    made = {"whole.txt": make_log(folder / "whole.txt", "--seeds 0 1 2").read_bytes()}
    made.update({"a file": b"hello\n", "prose.txt": b"It went well.\n" * 9, "deep.jsonl": DEEP.encode(),
                 "lists.jsonl": b"[]\n", "binary.parquet": b"PAR1\0\0PAR1", "binary.txt": bytes(range(256)),
                 "deep.json": DEEP.encode(), "binary.toml": b"\xff\xfe\0", "unclosed.toml": b"[study\n",
                 "numbers.toml": b"runs = 7\nname = 1\n", "rows.json": json.dumps(dict(
                     track="laptop", recipe="muon", seeds=[100], rows=[7])).encode()})
    for name, content in made.items():
        (folder / name).write_bytes(content)
    (folder / "empty folder").mkdir()
    return {name: folder / name for name in (*made, "empty folder", "absent", "out")}


def fill(words: list[str], files: dict[str, Path]) -> list[str]:
    """`words` with the paths of the files that they name."""
    text = "\n".join(words)
    for name, path in files.items():
        for spelled in (name, name.replace(" ", "\n")):  # a name of two words was split into them
            text = text.replace("{" + spelled + "}", str(path))
    return text.split("\n") if words else []
