"""What studies publish: README.md and picture.png beside the logs of each, and docs/findings.md; whether
these are what the logs give; what is left to run.
"""
from pathlib import Path

from speedrun import ROOT
from speedrun.cli import Refusal
from speedrun.text import printable

from . import findings, runs
from .figures import figures
from .file import names, read_study
from .page import page
from .picture import draw, is_of
from .study import Study


class Studies:
    """The studies by name (or .toml file), whose logs lie under `records`; each is read once."""

    def __init__(self, records: Path = ROOT / "records"):
        self.records = records
        self._read: dict[str, tuple[Study, dict]] = {}

    def load(self, name: str) -> tuple[Study, dict]:
        """The study and its figures."""
        if name not in self._read:
            study = read_study(name, self.records)
            self._read[name] = study, figures(study)
        return self._read[name]

    def reread(self) -> None:
        """Read every study again when it is asked for next: there are new logs."""
        self._read.clear()

    @property
    def published(self) -> bool:
        """Whether the records are those that docs/findings.md speaks of."""
        return self.records == ROOT / "records"


def write(studies: Studies, name: str | None = None) -> None:
    """README.md and picture of the study of this name, of all without one, and of those that share its logs;
    and docs/findings.md."""
    everyone = names() if studies.published else []
    for each in dict.fromkeys([*([name] if name else []), *everyone]):
        study, found = studies.load(each)
        if name in (None, each) or _differs(study, found):
            study.folder.mkdir(parents=True, exist_ok=True)
            (study.folder / "README.md").write_text(page(study, found), encoding="utf-8")
            draw(study, found, study.folder / "picture.png")
    if studies.published:
        findings.PAGE.write_text(findings.text(studies.load), encoding="utf-8")


def wrong(studies: Studies, name: str | None = None) -> list[str]:
    """One line for each published file of the study, or of all, that is not what the logs give."""
    found = []
    for each in [name] if name else names():
        study, shown = studies.load(each)
        found += _differs(study, shown)
        try:
            study.missing()
        except Refusal as refusal:  # a log that does not belong to its cell
            found.append(str(refusal))
    if studies.published:
        page_now = findings.PAGE.read_text(encoding="utf-8") if findings.PAGE.is_file() else None
        if page_now != findings.text(studies.load):
            found.append(f"{printable(findings.PAGE)} is not what the logs give")
    return found


def _differs(study: Study, found: dict) -> list[str]:
    """What of the study's folder is not what its logs give."""
    wrong, readme, picture = [], study.folder / "README.md", study.folder / "picture.png"
    if not readme.is_file() or readme.read_text(encoding="utf-8") != page(study, found):
        wrong.append(f"{printable(readme)} is not what the logs give")
    if any("val_loss" in row for row in found["cells"].values()) and not is_of(picture, study, found):
        wrong.append(f"{printable(picture)} was not drawn from these logs")
    return wrong


def listing(studies: Studies) -> list[dict]:
    """Each study's name, track, number of cells, seeds, runs_left and cost."""
    found = []
    for name in names():
        study, shown = studies.load(name)
        found.append(dict(name=name, track=study.track, cells=len(study.cells), seeds=study.seeds,
                          runs_left=len(study.missing()), cost=shown["cost"]))
    return found


def run(studies: Studies, name: str, jobs: int | None = None, data_dir: Path | None = None) -> list[str]:
    """Tune, run what is missing, and write the pages, even where it is stopped; what diverged, a line each.

    jobs: runs at a time (default: one a GPU, else one a core). Refusal as runs.run_missing.
    """
    study = read_study(name, studies.records)
    places = runs.slots(study, jobs)
    with runs.workplace(study) as work:
        try:
            runs.tune(study, places, work, data_dir)
            study = read_study(name, studies.records)  # with what the tuning found
            return runs.run_missing(study, places, work, data_dir)
        finally:
            studies.reread()
            write(studies, name)
