#!/usr/bin/env python3
"""Run a named study to its end: each recipe, setting and seed of scripts/studies/NAME.toml not yet done.

Each run is a process of its own, one a GPU, or --jobs at a time that share the cores. Logs go to
records/studies/NAME; a study that was stopped goes on where it was, run by run. Then its README.md and its
picture are written, and docs/findings.md, whose numbers are all taken from logs.
"""
import sys
from functools import lru_cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speedrun.cli import need

need("numpy", "scipy", "torch")

from speedrun import ROOT
from speedrun.cli import Parser, Refusal, command, print_json
from speedrun.studies import findings, runs
from speedrun.studies.figures import figures
from speedrun.studies.file import names, read_study
from speedrun.studies.page import page
from speedrun.studies.picture import draw, is_of
from speedrun.studies.study import Study
from speedrun.text import printable

EXAMPLE = """examples:
  python scripts/study.py ladder
  python scripts/study.py --list
  python scripts/study.py --check
"""


def published(args) -> bool:
    """Whether the records are those that docs/findings.md speaks of."""
    return args.records == ROOT / "records"


def write(args, load) -> int:
    """README.md and picture of the named study, of all without a name, and of those that share its logs; and
    docs/findings.md."""
    for name in dict.fromkeys([*([args.name] if args.name else []), *(names() if published(args) else [])]):
        study, found = load(name)
        if args.name in (None, name) or differs(study, found):
            study.folder.mkdir(parents=True, exist_ok=True)
            (study.folder / "README.md").write_text(page(study, found), encoding="utf-8")
            draw(study, found, study.folder / "picture.png")
    if published(args):
        findings.PAGE.write_text(findings_text(load), encoding="utf-8")
    return 0


def differs(study: Study, found: dict) -> list[str]:
    """What of the study's folder is not what its logs give."""
    wrong, readme, picture = [], study.folder / "README.md", study.folder / "picture.png"
    if not readme.is_file() or readme.read_text(encoding="utf-8") != page(study, found):
        wrong.append(f"{printable(readme)} is not what the logs give")
    if any("val_loss" in row for row in found["cells"].values()) and not is_of(picture, study, found):
        wrong.append(f"{printable(picture)} was not drawn from these logs")
    return wrong


def findings_text(load) -> str:
    return findings.render(findings.TEMPLATE.read_text(encoding="utf-8"), load)


def check(args, load) -> int:
    """Exit code 1, and one line for each file, where a published one is not what the logs give."""
    wrong = []
    for name in [args.name] if args.name else names():
        wrong += differs(*load(name))
        try:
            load(name)[0].missing()
        except Refusal as refusal:  # a log that is none of its cell
            wrong.append(str(refusal))
    if published(args):
        page_now = findings.PAGE.read_text(encoding="utf-8") if findings.PAGE.is_file() else None
        if page_now != findings_text(load):
            wrong.append(f"{printable(findings.PAGE)} is not what the logs give")
    fix = "; run `python scripts/study.py --write`"
    if args.json:
        print_json(dict(ok=not wrong, wrong=wrong))
    else:
        print("\n".join(line + fix for line in wrong) or "every figure is what the logs give")
    return 1 if wrong else 0


def listing(args, load) -> int:
    rows = []
    for name in names():
        study, found = load(name)
        rows.append(dict(name=name, track=study.track, cells=len(study.cells), seeds=study.seeds,
                         runs_left=len(study.missing()), cost=found["cost"]))
    if args.json:
        print_json(dict(studies=rows))
    else:
        width = max(len(row["name"]) for row in rows)
        for row in rows:
            print(f"{row['name']:{width}}  {row['track']}: {row['cells']} cells, seeds "
                  f"{' '.join(map(str, row['seeds']))}; {row['runs_left']} runs left")
    return 0


def run(args, load) -> int:
    """Tune, run what is missing, and write the pages."""
    study = read_study(args.name, args.records)
    places = runs.slots(study, args.jobs)
    with runs.workplace(study) as work:
        try:
            runs.tune(study, places, work, args.data_dir)
            study = read_study(args.name, args.records)  # with what the tuning found
            diverged = runs.run_missing(study, places, work, args.data_dir)
        finally:
            load.cache_clear()
            write(args, load)
    study, found = load(args.name)
    if args.json:
        print_json(dict(found, diverged=diverged, folder=str(study.folder)))
    else:
        print(f"{page(study, found)}\nwritten: {study.folder / 'README.md'} and picture.png")
    return 1 if diverged else 0


@command
def main(argv: list[str]) -> int:
    """Run, list or check studies, as the command line asks; the exit code."""
    parser = Parser(prog="study.py", description=__doc__, epilog=EXAMPLE)
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="a study of scripts/studies, or a .toml file like them")
    add("--check", action="store_true",
        help="run nothing: exit 1 where a README.md, a picture or docs/findings.md is not what the logs "
             "give (without NAME: of all studies)")
    add("--write", action="store_true",
        help="run nothing: write those files from the logs there are, e.g. some that another machine made")
    add("--list", action="store_true", help="list the studies and how many runs are left, and stop")
    add("--jobs", type=int, metavar="N", help="runs at a time (default: one a GPU, else one a core)")
    add("--records", type=Path, default=ROOT / "records", metavar="DIR",
        help="where studies/ and tuning/ lie (default: the repository's records)")
    add("--data-dir", type=Path, metavar="DIR", help="the folder of the shards, as train_gpt.py takes it")
    add("--json", action="store_true", help="print one JSON object; progress goes to stderr")
    args = parser.parse_args(argv)
    if args.jobs is not None and args.jobs < 1:
        raise Refusal(f"--jobs {args.jobs}: give at least 1", code=2)
    if not args.records.is_dir():
        raise Refusal(f"--records {args.records}: there is no such folder", code=2)
    args.records = args.records.resolve()

    @lru_cache
    def load(name: str):
        study = read_study(name, args.records)
        return study, figures(study)

    if args.list:
        return listing(args, load)
    if args.check or args.write:
        return (check if args.check else write)(args, load)
    if args.name is None:
        raise Refusal(f"name a study: {', '.join(names())}; or give --check, --write or --list", code=2)
    return run(args, load)


if __name__ == "__main__":
    sys.exit(main())
