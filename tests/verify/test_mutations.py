"""scripts/verify.py on many edits of a log that stands: each is found, in its place, by its rule."""
import re
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.edits import (  # noqa: F401
    ROOT,
    at,
    both,
    check,
    double,
    double_section,
    drop,
    drop_section,
    fields,
    in_source,
    move,
    pattern,
    rename_section,
    swap,
    swap_sections,
    verify,
    whole,
)
from tests.support.made_logs import parts, rechain

pytestmark = pytest.mark.process  # the lock of the name runs optimizers/ by themselves

TRAINER = '@ source {"path": "train_gpt.py"'

# (name, edit, the rule that finds it where a forger has computed the chain of hashes anew: None where that
# is then a lie that agrees with itself; and whether the forger computed the header's sha256 anew, too)
EDITS = [
    ("final loss", pattern("step:300/", r"val_loss:1\.3", "val_loss:1.2", 1), "outcome"),
    ("loss before the crossing", pattern("step:150/", r"val_loss:\S+", "val_loss:1.30000"), "outcome"),
    ("loss in between", pattern("step:100/", r"(val_loss:\S+)\d ", r"\g<1>7 "), None),
    ("loss before training", pattern("step:0/", "val_loss:5.54", "val_loss:5.53"), None),
    ("loss nan", pattern("step:50/", r"val_loss:\S+", "val_loss:nan"), "losses"),
    ("loss zero", pattern("step:50/", r"val_loss:\S+", "val_loss:0.00000"), "losses"),
    ("fewer decimals", pattern("step:50/", r"(val_loss:\S+)\d ", r"\1 "), "log"),
    ("last time", pattern("step:300/", r"train_time:15", "train_time:14", 2), "times"),
    ("time in between", pattern("step:150/", r"train_time:7", "train_time:6"), "times"),
    ("time before training", pattern("step:0/", "train_time:0", "train_time:9"), "times"),
    ("times swapped", both(pattern("step:225/", r"train_time:\S+ ", "train_time:99.000s "),
                           pattern("step:225/", r"step_avg:\S+", "step_avg:440.00ms")), "times"),
    ("step_avg", pattern("step:200/", r"step_avg:5", "step_avg:4"), "times"),
    ("step number", swap("step:100/", "step:100/", "step:110/"), "grid"),
    ("steps of the run", swap("step:100/", "/300", "/310"), "grid"),
    ("seed of a line", swap("step:100/", "seed:0", "seed:1"), "order"),
    ("diagnostics of another seed", swap("@ diagnostics", '"seed": 0', '"seed": 1'), "order"),
    ("diagnostics moved", move("@ diagnostics", 0, "@ warmup"), "order"),
    ("step with a leading zero", swap("step:25/", "step:25/", "step:025/"), "log"),
    ("validation dropped", drop("step:125/", 1), "grid"),
    ("validation doubled", double("step:125/", 1), "grid"),
    ("validations swapped", move("step:125/", 0, "step:150/"), "grid"),
    ("first validation dropped", drop("step:0/"), "grid"),
    ("last validation dropped", drop("step:300/", 2), "grid"),
    ("validation off the grid",
     both(double("step:125/"), swap("step:125/", "step:125/", "step:112/")), "grid"),
    ("seed event dropped", drop("@ seed", 1), "order"),
    ("seed event doubled", double("@ seed", 1), "order"),
    ("outcome dropped", drop("@ outcome", 1), "seeds"),
    ("outcome doubled", double("@ outcome", 1), "order"),
    ("warm-up dropped", drop("@ warmup"), "order"),
    ("warm-up doubled", double("@ warmup"), "order"),
    ("warm-up moved", move("@ warmup", 0, "@ seed"), "order"),
    ("end dropped", drop("@ end"), "log"),
    ("end doubled", double("@ end"), "log"),
    ("end moved", move("@ end", 0, "@ seed", 2), "log"),
    ("first line dropped", drop("@ log"), "log"),
    ("header dropped", drop("@ run"), "log"),
    ("header doubled", double("@ run"), "order"),
    ("header before the sources", move("@ run", 0, "@ log"), "order"),
    ("seed removed", drop_section, "seeds"),
    ("seeds swapped", swap_sections, "order"),
    ("seed doubled", double_section, "order"),
    ("seed renamed", rename_section, "seeds"),
    ("seed removed from the header", fields("@ run", lambda h: h["seeds"].pop()), "seeds"),
    ("seed removed everywhere but in the command",
     both(drop_section, fields("@ run", lambda h: h["seeds"].remove(1))), "command"),
    ("command", swap("@ run", "--seeds 0 1 2", "--seeds 0 1"), "command"),
    ("command of another program", swap("@ run", "train_gpt.py", "other.py"), "command"),
    ("learning rate", fields("@ run", lambda h: h["recipe"].update(lr=0.5)), "sha256"),
    ("learning rate, sha256 too", fields("@ run", lambda h: h["recipe"].update(lr=0.5)), "recipe", True),
    ("recipe's name", fields("@ run", lambda h: h["recipe"].update(name="muon")), "command", True),
    ("longer schedule", fields("@ run", lambda h: h["recipe"].update(schedule_steps=400)), "grid", True),
    ("target", fields("@ run", lambda h: h["track"].update(target=1.5)), "track", True),
    ("grid", fields("@ run", lambda h: h["track"].update(val_every=50)), "track", True),
    ("custom", fields("@ run", lambda h: h["track"].update(official=False)), "track", True),
    ("track's name", fields("@ run", lambda h: h["track"].update(name="lap")), "track", True),
    ("track's model", fields("@ run", lambda h: h["track"]["model"].update(model_dim=256)), "track", True),
    ("unknown field of the track", fields("@ run", lambda h: h["track"].update(easy=True)), "header", True),
    ("other data", fields("@ run", lambda h: h["data"]["train"][0].update(sha256="0" * 64)), "data", True),
    ("too little data", fields("@ run", lambda h: h["data"]["train"][0].update(tokens=4096)), "data", True),
    ("validation data", fields("@ run", lambda h: h["data"]["val"][0].update(tokens=4096)), "data", True),
    ("world size", fields("@ run", lambda h: h.update(world_size=3)), "warmup"),
    ("no hardware", fields("@ run", lambda h: h.pop("hardware")), "header"),
    ("no version of torch", fields("@ run", lambda h: h["versions"].pop("torch")), "header"),
    ("a number for a version", fields("@ run", lambda h: h["versions"].update(torch=2)), "header"),
    ("no seeds", fields("@ run", lambda h: h.update(seeds=[])), "header"),
    ("half a commit", fields("@ run", lambda h: h.update(git=dict(commit="abc", changed=False))), "header"),
    ("sha256 of the code", fields("@ run", lambda h: h["sha256"].update(code="0" * 64)), "sha256"),
    ("source line", in_source("train_gpt.py", "0.12", "0.13"), "sha256", "sources"),
    ("source dropped", drop('@ source {"path": "optimizers/polar.py"'), "sha256"),
    ("trainer's source dropped", drop(TRAINER), "source", True),
    ("source outside", swap(TRAINER, "train_gpt.py", "../train_gpt.py"), "source", True),
    ("source at an absolute path", swap(TRAINER, "train_gpt.py", "/a.py"), "source", True),
    ("source twice", double(TRAINER), "source", True),
    ("validation in a source", in_source("train_gpt.py", "import math\n",
                                         "# step:300/300 val_loss:1.00000\n"), "source", True),
    ("outcome's loss", pattern("@ outcome", r'"val_loss": 1\.3', '"val_loss": 1.2'), "outcome"),
    ("outcome's time", fields("@ outcome", lambda o: o.update(train_time=o["train_time"] - 1)), "outcome"),
    ("outcome's rate", fields("@ outcome", lambda o: o.update(tokens_per_second=9000)), "outcome"),
    ("outcome's crossing", fields("@ outcome", lambda o: o["reached"].update(step=100)), "outcome"),
    ("outcome not reached", fields("@ outcome", lambda o: o.update(reached=None)), "outcome"),
    ("outcome's epochs", fields("@ outcome", lambda o: o.update(epochs=2.5)), "outcome"),
    ("outcome's steps", fields("@ outcome", lambda o: o.update(steps=299)), "outcome"),
    ("outcome without a loss", fields("@ outcome", lambda o: o.pop("val_loss")), "outcome"),
    ("outcome of a list", fields("@ outcome", lambda o: o.update(seed=[0])), "outcome"),
    ("status", swap("@ end", "complete", "interrupted"), "status"),
    ("no status", fields("@ end", lambda e: e.pop("status")), "status"),
    ("end before the start", pattern("@ end", r'"ended": "\d+', '"ended": "1999'), "clock"),
    ("no such day", pattern("@ end", r"-\d\dT", "-99T"), "clock"),
    ("too short a day", fields("@ end", lambda e: e.update(ended="2027-01-15T08:01:00Z")), "clock"),
    ("format", swap("@ log", '"format": 1', '"format": 2'), "format"),
    ("micro-batch", swap("@ warmup", '"micro_batch": 1', '"micro_batch": 3'), "warmup"),
    ("compiled", swap("@ warmup", "false", "true"), "warmup"),
    ("warm-up's seconds", swap("@ warmup", '"seconds": 1.25', '"seconds": "x"'), "warmup"),
    ("NaN", pattern("@ outcome", r'"epochs": \S+\}', '"epochs": NaN}'), "log"),
    ("infinity", pattern("@ outcome", r'"epochs": \S+\}', '"epochs": 1e999}'), "log"),
    ("a key twice", swap("@ outcome", '{"seed": 0', '{"seed": 1, "seed": 0'), "log"),
    ("deep nesting",
     pattern("@ outcome", r'"reached": \{[^}]*\}', f'"reached": {"[" * 10**5}{"]" * 10**5}'), "log"),
    ("huge integer", pattern("@ outcome", r'"steps": 300', f'"steps": {"3" * 5000}'), "log"),
    ("no object", pattern("@ warmup", r"\{.*\}", "{}{}"), "log"),
]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit[0])
def test_each_edit_is_found(check, whole, edit):
    _, change, rule, *digests = edit
    pieces = parts(whole)
    change(pieces)
    text = "".join(line for piece in pieces for line in piece)
    lines, before = text.splitlines(), whole.splitlines()
    assert text != whole
    first = next((i for i, pair in enumerate(zip(lines, before), 1) if pair[0] != pair[1]),
                 min(len(lines), len(before)))
    starts = [sum(map(len, pieces[:i])) + 1 for i in range(len(pieces))]
    near = {first, first + 1, max(start for start in starts if start <= first), len(lines)}
    code, found = check(text=text)
    assert code == 1 and near & {line for line, rule, _ in found if rule == "log"}, found

    if digests == ["sources"]:  # the header's sha256 stay as they are
        head = pieces[at(pieces, "@ run")][0]
        pieces = parts(rechain(pieces, digests=True))
        pieces[at(pieces, "@ run")][0] = head
    code, found = check(text=rechain(pieces, digests=True in digests))
    if rule is None:
        assert (code, found) == (0, [])  # consistent: only a replay can tell
    else:
        assert code == 1 and rule in {row[1] for row in found}, found
        assert rule == "log" or not {row[1] for row in found if "hash does not follow" in row[2]}


def test_an_unchanged_commit_has_the_sources_that_it_has(check, whole):
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    head = done.stdout.strip()
    if not head:
        pytest.skip("this checkout is no git clone")
    pieces = parts(whole)
    in_source("train_gpt.py", "0.12", "0.13")(pieces)
    for state, expected in ((dict(commit=head, changed=True), 0), (dict(commit="0" * 40, changed=False), 0),
                            (None, 0), (dict(commit=head, changed=False), 1)):
        fields("@ run", lambda header: header.update(git=state))(pieces)
        code, found = check(text=rechain(pieces, digests=True))
        assert code == expected
    assert any(rule == "git" and what.startswith("train_gpt.py is not that of") for _, rule, what in found)


def test_there_are_enough_edits():
    assert len(EDITS) >= 40 and sum(edit[2] is not None for edit in EDITS) >= 40


TEXTS = {
    "CRLF": lambda t: t.replace("\n", "\r\n"),
    "CRLF in one line": lambda t: t.replace("\nstep:100/", "\r\nstep:100/", 1),
    "torn line": lambda t: t[:-9],
    "torn newline": lambda t: t[:-1],
    "tail cut": lambda t: t[:t.rindex("\nstep:150/") + 1],
    "half": lambda t: t[:len(t) // 2],
    "first line only": lambda t: t[:t.index("\n") + 1],
    "empty line": lambda t: t.replace("\nstep:100/", "\n\nstep:100/", 1),
    "NUL": lambda t: t.replace("\nstep:100/", "\n\0step:100/", 1),
    "BOM": lambda t: "\ufeff" + t,
    "text before": lambda t: "hello\n" + t,
    "text behind": lambda t: t + "hello\n",
    "twice": lambda t: t + t,
    "escape code": lambda t: t.replace("\nstep:100/", "\n\x1b[2Jstep:100/", 1),
    "escape code in a path": lambda t: t.replace(TRAINER, TRAINER[:-13] + '\\u001b[2J\\u202e.py"', 1),
    "another script's digits": lambda t: t.replace("step:100/", "step:١٠٠/", 1),
    "empty": lambda t: "",
    "a line without end": lambda t: t + "x" * 10**6,
    "a line of zeros": lambda t: t + "step:" + "0" * 10**5 + "/1 val_loss:1.00000\n",
    "many lines": lambda t: t + "a\n" * 10**6,
    "header of another run": lambda t: re.sub(r"\n@ run .*", '\n@ run {"seeds": [0]} #0123456789abcdef', t),
    "a lone surrogate": lambda t: t.replace("step:100/", "\ud800step:100/", 1),
}


@pytest.mark.parametrize("name", TEXTS)
def test_each_edit_of_the_text_is_found(check, capsys, whole, name):
    code, found = check(text=TEXTS[name](whole))
    assert code == 1 and 1 <= len(found) <= 40
    assert all("\r" not in what and "\x1b" not in what for _, _, what in found)


VALUES = st.one_of(st.none(), st.booleans(), st.integers(-2**70, 2**70), st.floats(), st.text(max_size=8),
                   st.lists(st.integers(), max_size=3), st.dictionaries(st.text(max_size=3), st.integers(),
                                                                        max_size=2))


@settings(max_examples=120, deadline=None)
@given(which=st.sampled_from(["@ log", "@ run", "@ warmup", "@ seed", "@ outcome", "@ end", "@ source"]),
       choice=st.randoms(use_true_random=False), value=VALUES)
def test_no_value_of_an_event_crashes_it(tmp_path_factory, whole, which, choice, value):
    def change(found):
        while True:
            key = choice.choice(sorted(found) if isinstance(found, dict) else range(len(found)))
            if not isinstance(found[key], (dict, list)) or not found[key] or choice.random() < 0.3:
                found[key] = value
                return
            found = found[key]

    pieces = parts(whole)
    fields(which, change)(pieces)
    path = tmp_path_factory.mktemp("any") / "log.txt"
    path.write_text("".join(f"{line}" for piece in pieces for line in piece))
    try:
        path.write_text(rechain(pieces, digests=True))
    except (KeyError, TypeError, AttributeError):  # too far gone to hash: then it stays as it is
        pass
    assert verify.main(["--json", str(path)]) in (0, 1)
