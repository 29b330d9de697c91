"""The page of scripts/report.py: whole, accessible, and safe whatever the logs say."""
import copy
import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizers import diagnostics
from speedrun.cli import Refusal
from speedrun.log.reader import read_log
from speedrun.report import curves
from speedrun.report.comparison import read_comparison
from speedrun.report.page import page
from speedrun.report.style import DARK, LIGHT, STYLE
from speedrun.report.svg import MOST_LINES, sample
from speedrun.report.table import markdown
from tests.support.made_logs import make_log, parts, rechain
from tests.support.reports import edited, make

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'&|`$\\frac{\x1b[31m\u202e\ud800"


def test_the_page_needs_nothing_else_and_is_accessible(made, tmp_path):
    found = make([made], tmp_path / "out")
    assert not found.of("script") and not found.of("link") and not found.of("img") and "@import" not in STYLE
    assert not [a for _, attributes in found.tags for a in attributes if a in ("src", "href", "style")]
    assert set(re.findall(r"url\((.)", found.source)) == {"#"}
    assert found.of("html")[0]["lang"] == "en" and found.of("title") and len(found.of("h1")) == 1
    assert {"charset", "name", "http-equiv"} <= {key for meta in found.of("meta") for key in meta}
    charts = [svg for svg in found.of("svg") if svg.get("role") == "img"]
    assert len(charts) == 8 and all(len(svg["aria-label"]) > 40 for svg in charts)
    assert all(svg.get("aria-hidden") == "true" for svg in found.of("svg") if svg not in charts)
    assert len(found.of("caption")) == len(found.of("table")) and all("scope" in th for th in found.of("th"))
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids)) == 8
    assert ("muon ends 0.1100 nats above aurora (95 % 0.0852 to 0.1348, paired by seed, p = 0.0027)."
            in found.text)
    for words in ("Loss by step", "At the target", "Loss by seconds", "Loss minus that of aurora",
                  "mean crossing step", "Dead by activation", "BalancedPolar", "git commit",
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


def test_logs_without_diagnostics_are_told(made, tmp_path):
    for name in ("muon", "aurora"):
        pieces = parts((made / f"{name}.txt").read_text())
        (tmp_path / f"{name}.txt").write_text(
            rechain([piece for piece in pieces if not piece[0].startswith("@ diagnostics ")]))
    found = make([tmp_path / "muon.txt", tmp_path / "aurora.txt"], tmp_path / "out")
    assert "The logs of muon, aurora hold no diagnostics." in found.text
    assert len([svg for svg in found.of("svg") if svg.get("role") == "img"]) == 4
    found = make([made / "muon.txt", tmp_path / "aurora.txt"], tmp_path / "some")
    assert "The logs of aurora hold no diagnostics." in found.text and "Dead by leverage" in found.text


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
