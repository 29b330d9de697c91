"""HellaSwag's validation items (Zellers et al. 2019, arXiv 1905.07830), as lm-evaluation-harness puts them.

An item is a query, four endings and the number of the right one. From the published fields

    query  = clean(activity_label + ": " + ctx_a + " " + ctx_b), ctx_b with a capital first and small letters
    ending = clean(ending)

where `clean` removes the marks that the items from WikiHow carry. A model reads query + " " + ending. Source:
https://github.com/EleutherAI/lm-evaluation-harness, lm_eval/tasks/hellaswag/utils.py (task version 1).
"""
import json
import re
from dataclasses import dataclass
from pathlib import Path

from data.hub import fetch_all, library
from data.shards import sha256_of
from speedrun.cli import Refusal

REPO, FILE, FILE_BYTES = "Rowan/hellaswag", "data/validation-00000-of-00001.parquet", 6_315_951
PUBLISHED = {  # sha256 of the two published forms, as public repositories that fetched them record it
    "899813071e1e95efafec90f856e1987d2150fa4d020fc005df6962c259f660cd": "validation.parquet of the hub",
    "0aa3b88843990f3f10a97b9575c94d7b71fb2205240ba04ae4884d9e9c992588": "hellaswag_val.jsonl of the authors",
}
TEXTS = ("activity_label", "ctx_a", "ctx_b")
MARK = re.compile(r"\[[^\]\n]*\]")  # [header], [step], [substeps]
FIX = "give the validation file as it is published"


@dataclass(frozen=True)
class Item:
    query: str
    endings: tuple[str, ...]   # four
    label: int                 # which of them is right, from 0


def clean(text: str) -> str:
    """`text` without the marks in brackets; a title mark becomes a full stop."""
    return MARK.sub("", text.strip().replace(" [title]", ". ")).replace("  ", " ")


def item_of(row, where: str) -> Item:
    """The item of a row as published; `where` (file:line) begins the Refusal for anything else."""
    if not isinstance(row, dict):
        raise Refusal(f"{where}: a JSON {type(row).__name__}, not an object; {FIX}")
    missing = [name for name in (*TEXTS, "endings", "label") if name not in row]
    if missing:
        raise Refusal(f"{where}: no field {missing[0]!r}; {FIX}")
    endings, label = row["endings"], str(row["label"])
    if not isinstance(endings, list) or len(endings) != 4:
        raise Refusal(f"{where}: the field 'endings' is not a list of four; {FIX}")
    texts = [row[name] for name in TEXTS] + endings
    if not all(isinstance(text, str) for text in texts):
        raise Refusal(f"{where}: {', '.join(TEXTS)} and the endings must be text; {FIX}")
    if label not in ("0", "1", "2", "3"):
        raise Refusal(f"{where}: the label is {label[:20]!r}, not 0, 1, 2 or 3 (the test split has none); "
                      f"{FIX}")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:  # JSON allows it
        raise Refusal(f"{where}: holds half of a surrogate pair, which is no text; {FIX}") from None
    activity, first, second = texts[:3]
    found = Item(clean(f"{activity}: {first} {second.capitalize()}"), tuple(map(clean, endings)), int(label))
    if not all(found.endings):
        raise Refusal(f"{where}: an ending is empty, so nothing can be scored; {FIX}")
    return found


def jsonl_rows(path: Path):
    """(file:line, row) for each line but blank ones. Refusal for a line that is no JSON."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield f"{path}:{number}", json.loads(line)
                except (ValueError, RecursionError) as error:
                    reason = " ".join(str(error).split())[:120]
                    raise Refusal(f"{path}:{number}: not JSON ({reason}); {FIX}") from None


def parquet_rows(path: Path):
    """(file: row, row) for each row. Refusal for a file that cannot be read."""
    arrow, parquet = library("pyarrow"), library("pyarrow.parquet")
    try:
        rows = parquet.read_table(path).to_pylist()
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise Refusal(f"{path}: unreadable parquet ({reason}); delete it and fetch it again") from None
    for number, row in enumerate(rows, 1):
        yield f"{path}: row {number}", row


ROWS = {".jsonl": jsonl_rows, ".parquet": parquet_rows}


def read_items(path: Path, rows=None) -> list[Item]:
    """The items of a .jsonl or .parquet file, in its order. Refusal naming the line for anything else."""
    rows = rows or ROWS.get(path.suffix)
    if rows is None:
        raise Refusal(f"{path}: unknown kind of file; known: {', '.join(ROWS)}", code=2)
    if not path.is_file():
        raise Refusal(f"{path}: no such file; name one that is there", code=2)
    items = [item_of(row, where) for where, row in rows(path)]
    if not items:
        raise Refusal(f"{path}: holds no item; {FIX}")
    return items


def fetch_items(folder: Path) -> Path:
    """The hub's validation file under `folder`, fetched where it is not there: resumed where a download
    stopped, compared with the sha256 that the hub records, noted in `manifest.json`. Raises Refusal."""
    fetch_all(folder, [FILE], REPO, FILE_BYTES, check=lambda path: read_items(path, parquet_rows))
    return folder / FILE


def about(path: Path) -> dict:
    """What a result says of its data: the file's name, its sha256, and which published file that is."""
    sha256 = sha256_of(path)
    return dict(file=path.name, sha256=sha256, published=PUBLISHED.get(sha256))
