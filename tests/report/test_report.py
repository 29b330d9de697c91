"""scripts/report.py on logs written here."""
import copy
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizers import diagnostics
from scripts import report
from speedrun import ROOT
from speedrun.cli import Refusal
from speedrun.log.reader import read_log
from speedrun.report import curves
from speedrun.report.comparison import read_comparison
from speedrun.report.page import page
from speedrun.report.style import DARK, LIGHT, STYLE
from speedrun.report.svg import MOST_LINES, sample
from speedrun.report.table import markdown
from tests.support.made_logs import make_log, parts, rechain

MUON, AURORA = {0: 1.35, 1: 1.352, 2: 1.36}, {0: 1.25, 1: 1.242, 2: 1.24}
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&|`$\\frac{\x1b[31m\u202e\ud800"


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with logs of muon and aurora, three seeds each."""
    folder = tmp_path_factory.mktemp("logs")
    make_log(folder / "muon.txt", "--recipe muon --seeds 0 1 2", MUON)
    make_log(folder / "aurora.txt", "--recipe aurora --seeds 0 1 2", AURORA, hour=1)
    return folder


def edited(path: Path, to: Path, **changes) -> Path:
    """A copy of a log whose events of some kinds are changed: kind -> a function of the event, whose hashes
    are made anew."""
    pieces = parts(path.read_text())
    for piece in pieces:
        line = piece[0].rsplit(" #", 1)[0]
        kind = line.split()[1]
        if line.startswith("@ ") and kind in changes:
            data = json.loads(line.split(" ", 2)[2])
            changes[kind](data)
            piece[0] = f"@ {kind} {json.dumps(data)} #0\n"
    to.write_text(rechain(pieces))
    return to


class Page(HTMLParser):
    """What a browser would make of the page: tags with their attributes, and the text."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.texts = [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag == name]


def make(logs, out: Path, *words) -> Page:
    """The page of `report.py LOGS`."""
    assert report.main([*map(str, logs), "--out", str(out), *words]) == 0
    return Page(out / "report.html")


########################################
#                Figures               #
########################################


def test_table_differences_and_picture(capsys, made, tmp_path):
    make([made / "muon.txt", made / "aurora.txt"], tmp_path / "out", "--json")
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "out/summary.json").read_text())
    row = found["recipes"]["muon"]
    assert row["val_loss"]["mean"] == pytest.approx(1.354) and row["val_loss"]["n"] == 3
    steps = [np.interp(-1.38, [-p.val_loss for p in points], [p.step for p in points])
             for points in read_log(made / "muon.txt").series.values()]
    assert row["crossing_step"]["mean"] == pytest.approx(np.mean(steps))
    seconds = row["crossing_seconds"]["mean"] / row["crossing_step"]["mean"]
    assert seconds == pytest.approx(0.5, rel=0.01)  # made_logs: 500 ms a step
    assert row["tokens_per_second"] == pytest.approx(4096 / 0.5, rel=0.01)
    gap = found["recipes"]["aurora"]["difference"]  # -.10, -.11, -.12: t(.975, 2) = 4.303, sd = .01
    assert (gap["method"], gap["n"], gap["mean"]) == ("paired", 3, pytest.approx(-0.11))
    assert gap["high"] - gap["mean"] == pytest.approx(4.30265 * 0.01 / 3**0.5, rel=1e-4)
    assert found["recipes"]["aurora"]["crossing_difference"]["high"] < 0
    head, _, first, second = (tmp_path / "out/table.md").read_text().splitlines()
    assert first.startswith("| aurora | 3 | 300 | 1.2440 (sd 0.0053) | ")
    assert second.startswith("| muon | 3 | 300 | 1.3540 ")
    assert "loss minus muon's" in head and "-0.1100 (-0.1348 to -0.0852)" in first
    assert (tmp_path / "out/loss.png").read_bytes().startswith(b"\x89PNG")


def test_seeds_that_never_cross_are_counted_not_dropped(capsys, tmp_path):
    log = make_log(tmp_path / "log.txt", "--recipe muon --seeds 0 1", {0: 1.3, 1: 1.45})
    made = make([log], tmp_path / "out")
    assert "1 of 2 seeds cross" in capsys.readouterr().out and "1 of 2 seeds cross" in made.text


def test_what_cannot_be_reported(capsys, made, tmp_path):
    good, out = made / "muon.txt", tmp_path / "out"
    again = edited(good, tmp_path / "again.txt",
                   run=lambda run: run["data"]["val"][0].update(sha256="0" * 64))
    other = make_log(tmp_path / "custom.txt", "--recipe adamw --allow-custom --track.target 9")
    stopped = make_log(tmp_path / "stopped.txt", "--recipe aurora", status="interrupted")
    bare = edited(good, tmp_path / "bare.txt", run=lambda run: run.pop("hardware"))
    endless = edited(good, tmp_path / "endless.txt", end=lambda end: end.pop("ended"))
    foreign = tmp_path / "foreign.txt"
    foreign.write_text("step:0/10 val_loss:5.0 train_time:0ms\nstep:10/10 val_loss:3.0 train_time:9ms\n")
    nan = tmp_path / "nan.txt"
    nan.write_text(rechain(parts(re.sub("(step:50/300 val_loss:)[0-9.]+", r"\1nan", good.read_text()))))
    cut = tmp_path / "cut.txt"
    cut.write_text(good.read_text().replace("val_loss:1.3", "val_loss:1.2", 1))
    for logs, words in [
            ([stopped], "interrupted"), ([good, good], "seed 0"), ([good, other], "another track"),
            ([made / "aurora.txt", again], "other data"),
            ([ROOT / "README.md"], "not a record log"), ([cut], "cut.txt:"), ([bare], "hardware is missing"),
            ([endless], "does not say when"),
            ([foreign], "modded-nanogpt"), ([nan], "loss of seed 0 is nan")]:
        assert report.main([*map(str, logs), "--out", str(out)]) == 1
        err = capsys.readouterr().err
        assert words in err and len(err.splitlines()) == 1
    assert not out.exists()
    assert report.main([str(good), "--out", str(good)]) == 2
    assert report.main([str(tmp_path / "none.txt"), "--out", str(out)]) == 2


def test_recipes_are_told_apart_by_all_their_constants(made, tmp_path):
    tuned = edited(made / "aurora.txt", tmp_path / "tuned.txt", run=lambda run: run["recipe"].update(lr=0.5))
    found = make([made, tuned], tmp_path / "out")
    assert list(read_comparison([made, tuned]).found["recipes"]) == ["aurora", "muon", "aurora #2"]
    table = found.text[found.text.index("Fields that differ come first"):]
    different, same = table.split("Different")[1].split("The same in all")
    assert re.search(r"\blr [0-9.]+ [0-9.]+ 0.5 ", different) and "BalancedPolar" in different
    assert "momentum 0.95 0.95 0.95" in same and "steps 300 300 300" in same


def test_a_longer_run_may_have_read_more_shards(tmp_path):
    logs = [make_log(tmp_path / f"{steps}.txt", f"--track fineweb-124m --recipe muon --recipe.steps {steps}",
                     {0: 3.27}) for steps in (400, 200)]
    assert [len(read_log(log).header["data"]["train"]) for log in logs] == [3, 2]
    found = read_comparison(logs).found["recipes"]
    assert [row["steps"] for row in found.values()] == [400, 200]


def test_what_does_not_compare_is_said(capsys, made, tmp_path):
    other_code = edited(made / "aurora.txt", tmp_path / "other.txt",
                        run=lambda run: run["sha256"].update(code="0" * 64))
    found = make([made / "muon.txt", other_code], tmp_path / "out")
    assert "The logs hold 2 versions of the code" in found.text and "Loss by seconds" in found.text
    assert "The logs hold 2 versions of the code" in (tmp_path / "out/table.md").read_text()
    assert "The logs hold 2 versions of the code" in capsys.readouterr().out
    elsewhere = make_log(tmp_path / "log.txt", "--recipe aurora --seeds 0 1", device="another CPU")
    beside = make_log(tmp_path / "beside.txt", "--recipe aurora --seeds 0 1")  # one CPU's cores are shared
    found = make([made / "muon.txt", beside], tmp_path / "out")
    assert "No seconds are shown: runs went on at the same time" in found.text
    capsys.readouterr()
    found = make([made / "muon.txt", elsewhere], tmp_path / "out")
    assert "No seconds are shown: the runs are of different machines" in found.text
    assert "Loss by seconds" not in found.text and "seconds to target" not in found.text
    out = capsys.readouterr().out
    assert "seconds to target" not in out and "per second" not in out
    assert read_comparison([elsewhere]).found["recipes"]["aurora"]["crossing_seconds"]["mean"] > 0


########################################
#                 Page                 #
########################################


def test_the_page_needs_nothing_else_and_is_accessible(made, tmp_path):
    found = make([made], tmp_path / "out")
    assert not found.of("script") and not found.of("link") and not found.of("img") and "@import" not in STYLE
    assert not [a for _, attributes in found.tags for a in attributes if a in ("src", "href", "style")]
    assert set(re.findall(r"url\((.)", found.source)) == {"#"}
    assert found.of("html")[0]["lang"] == "en" and found.of("title") and len(found.of("h1")) == 1
    assert {"charset", "name", "http-equiv"} <= {key for meta in found.of("meta") for key in meta}
    charts = [svg for svg in found.of("svg") if svg.get("role") == "img"]
    assert len(charts) == 4 and all(len(svg["aria-label"]) > 40 for svg in charts)
    assert all(svg.get("aria-hidden") == "true" for svg in found.of("svg") if svg not in charts)
    assert len(found.of("caption")) == len(found.of("table")) and all("scope" in th for th in found.of("th"))
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids)) == 4
    assert ("muon ends 0.1100 nats above aurora (95 % 0.0852 to 0.1348, paired by seed, p = 0.0027)."
            in found.text)
    for words in ("Loss by step", "At the target", "Loss by seconds", "Loss minus that of aurora",
                  "mean crossing step", "hold no diagnostics", "BalancedPolar", "git commit",
                  "attention by flash_attention", read_log(made / "muon.txt").header["sha256"]["code"][:12]):
        assert words in found.text


def test_diagnostics_by_step_where_the_logs_have_them(made, tmp_path):
    def measured(data):
        of = dict(leverage_dead=[0.25, 1.0], leverage_spread=[0.5, 7], row_spread=[0.125, 7])
        data.update({"blocks.mlp.fc": of, "blocks.attn.q": of, "activation_dead": [0.0, 0.02]})
    log = edited(made / "muon.txt", tmp_path / "log.txt", diagnostics=measured)
    found = make([log, made / "aurora.txt"], tmp_path / "out")
    for title, value in (("Leverage spread", "0.5"), ("Row spread of the update", "0.125"),
                         ("Dead by leverage", "25"), ("Dead by activation", "1")):
        assert title in found.text and f"muon, step 300: {value} " in found.text  # one layer has no momentum
    assert "blocks.attn.q 0.25 0.5 0.125 - - -" in found.text


def test_the_metrics_are_those_that_a_run_measures():
    assert curves.METRICS == diagnostics.METRICS


def test_a_long_run_is_drawn_whole(tmp_path):
    log = make_log(tmp_path / "log.txt", "--recipe muon --val-every 1")
    paths = [path["d"] for path in make([log], tmp_path / "out").of("path") if path.get("class") == "line c0"]
    assert max(path.count("L") for path in paths) == 300 and not any("." * 3 in path for path in paths)


def test_hostile_logs_are_shown_as_text(capsys, made, tmp_path):
    def run(header):
        header["recipe"].update(name="_" + EVIL, note=EVIL, matrices=[EVIL])
        header["recipe"]["aux"][EVIL] = EVIL
        header["track"].update(name=EVIL, data=EVIL, official=False)
        header["hardware"].update(name=EVIL, gpus=[{"name": EVIL, "driver_version": EVIL}], device=EVIL)
        header["versions"][EVIL] = EVIL
        header["settings"] = {EVIL: EVIL}
        header.update(command=EVIL, started=EVIL)

    def diagnostics(data):
        data[EVIL] = dict(leverage_dead=[0.1, EVIL], row_spread=[0.5, 1e300, None])
        data["activation_dead"] = [0.5]
    logs = [edited(made / f"{name}.txt", tmp_path / f"<b>{name}.txt", run=run, diagnostics=diagnostics,
                   warmup=lambda data: data.update(attention=EVIL)) for name in ("muon", "aurora")]
    found = make(logs, tmp_path / "out")
    plain = make([made], tmp_path / "plain")
    assert {tag for tag, _ in found.tags} - {tag for tag, _ in plain.tags} <= {"strong"}
    names = {name for _, attributes in found.tags for name in attributes}
    assert not [name for name in names if name.startswith("on") or name in ("src", "href", "style")]
    assert found.text.count("<script>alert(1)</script><img src=x onerror=alert(2)>") > 20
    out = capsys.readouterr().out + (tmp_path / "out/table.md").read_text(encoding="utf-8") + found.source
    assert all(c == "\n" or c.isprintable() for c in out)
    for name in re.findall(r"[^`|]*<script>[^|]*", (tmp_path / "out/table.md").read_text(encoding="utf-8")):
        assert name.count("`") in (0, 1)
    assert (tmp_path / "out/loss.png").stat().st_size > 10_000


VALUES = st.sampled_from([None, True, -1, 0, 10**17, -1e300, 1e-300, "", EVIL, [], {}, [1], ["a"], [[]],
                          {"a": {"b": {"c": {"d": {"e": {"f": {"g": 1}}}}}}}])


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_header_or_event_crashes_it(made, tmp_path_factory, data):
    def change(event):
        for _ in range(data.draw(st.integers(1, 3))):
            at = event
            while True:
                key = data.draw(st.sampled_from(sorted(at, key=str)) if isinstance(at, dict)
                                else st.integers(0, len(at) - 1))
                if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
                    break
                at = at[key]
            at[key] = copy.deepcopy(data.draw(VALUES))
    path = tmp_path_factory.mktemp("fuzz") / "log.txt"
    edited(made / "muon.txt", path, **{data.draw(st.sampled_from(["run", "diagnostics", "warmup"])): change})
    try:
        found = read_comparison([path])
        assert "report" in page(found) and markdown(found.found)
        json.dumps(found.found, allow_nan=False)
    except Refusal as refusal:
        assert "\n" not in str(refusal)


def test_extreme_validations_are_drawn(made, tmp_path):
    text = (made / "muon.txt").read_text()
    for old, new in (("(step:50/300 val_loss:)[0-9.]+", r"\g<1>999999999.00000"),
                     ("(train_time:)[0-9.]+s", r"\g<1>0.000s"),
                     ("^step:300/300", "step:999999999999999/300")):
        text = re.sub(old, new, text, flags=re.MULTILINE)
    log = tmp_path / "log.txt"
    log.write_text(rechain(parts(text)))
    assert not re.search(r"\b(nan|inf)\b", make([log], tmp_path / "out").source)


########################################
#                Colours               #
########################################


def test_every_line_has_a_style_of_its_own():
    styles = set()
    for i in range(MOST_LINES):
        line, marker = sample(i)
        styles.add((line.get("class"), line.get("stroke-dasharray"), marker.get("d"), marker.get("class")))
    assert len(styles) == MOST_LINES
    assert len({style[1] for style in sorted(styles, key=str)}) == len({style[2] for style in styles}) == 6


def linear(colour: str) -> np.ndarray:
    """sRGB "#rrggbb" to linear light (IEC 61966-2-1)."""
    c = np.array([int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(light: np.ndarray) -> np.ndarray:
    """CIELAB under D65 (CIE 15)."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x = to_xyz @ light.clip(0, 1) / [0.9505, 1, 1.089]
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


EYES = ((1, 0, 0, 0, 1, 0, 0, 0, 1),
        (0.152286, 1.052583, -0.204868, 0.114503, 0.786281, 0.099216, -0.003882, -0.048116, 1.051998),
        (0.367322, 0.860646, -0.227968, 0.280085, 0.672501, 0.047413, -0.01182, 0.04294, 0.968881),
        (1.255528, -0.076749, -0.178779, -0.078411, 0.930809, 0.147602, 0.004733, 0.691367, 0.3039))


@pytest.mark.parametrize("theme", [0, 1])
def test_colours_stand_out_and_stay_apart_for_colour_blind_readers(theme):
    """Contrast by WCAG 2.2; dichromats as Machado, Oliveira and Fernandes (IEEE TVCG 15, 2009) model them."""
    luminance = [0.2126, 0.7152, 0.0722]
    themes = STYLE.split("@media (prefers-color-scheme: dark)")
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", themes[theme].split("* {")[0]))
    palette = (LIGHT, DARK)[theme]
    assert [colours[f"k{i}"] for i in range(6)] == list(palette)

    def contrast(name):
        low, high = sorted(linear(c) @ luminance for c in (colours[name], colours["page"]))
        return (high + 0.05) / (low + 0.05)
    assert min(contrast(f"k{i}") for i in range(6)) >= 3 and min(contrast("ink"), contrast("soft")) >= 4.5
    for eye in EYES:
        seen = [lab(np.array(eye).reshape(3, 3) @ linear(colour)) for colour in palette]
        assert min(np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]) > 15
