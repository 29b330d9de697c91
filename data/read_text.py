"""Read the inputs of tokenize_text.py: .txt, .jsonl (.gz, .xz), .parquet and files of hub datasets.

`find_sources` turns the names on the command line into (label, fetch) pairs, `read` turns those into pieces.
A piece is (opens a document, text). A reader is called with (path, label, field) and yields pieces: `label`
begins its Refusals, `field` names the text of a row. No file is held whole, so inputs may be of any size.
"""
import codecs
import fnmatch
import gzip
import json
import lzma
import os
import re
import zlib
from pathlib import Path

from data.hub import hub, library, retried
from speedrun.cli import Refusal, near

PIECE_BYTES, MAX_PIECE_CHARS = 4096, 2**20  # of a .txt: the usual and the largest piece
WORD_END = re.compile(r"(?s).*\S(?=[ \n])")  # up to the last end of a word
HUB_PREFIX = "hf://datasets/"


# ---------------------------------------------------------------- a reader for each kind of file


def read_txt(path: Path, label: str, field: str):
    """One document in pieces. GPT-2's pattern never joins a word to the space after it, so cut there."""
    decoder, text, lines, opens = codecs.getincrementaldecoder("utf-8")(), "", 0, True
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(PIECE_BYTES), b""):
            seen = max(len(text) - 1, 0)
            try:
                text += decoder.decode(block)
            except UnicodeDecodeError as error:
                line = lines + error.object[:error.start].count(b"\n") + 1
                raise Refusal(f"{label}:{line}: not UTF-8 ({error.reason}); convert it with iconv") from None
            lines += block.count(b"\n")
            match = WORD_END.match(text, seen)
            if match or len(text) > MAX_PIECE_CHARS:  # a megabyte without a space is cut anywhere
                cut = match.end() if match else len(text)
                yield opens, text[:cut]
                opens, text = False, text[cut:]
    if decoder.getstate()[0]:
        raise Refusal(f"{label}:{lines + 1}: ends within a UTF-8 character, it is cut off; fetch it again")
    yield opens, text


def text_of(line: bytes, label: str, field: str) -> str:
    """The text of one line of a .jsonl; `label` (file:line) begins the Refusal."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = str(error).replace("\n", " ")[:120]
        raise Refusal(f"{label}: not JSON ({reason}); fix or remove this line") from None
    if not isinstance(row, dict):
        raise Refusal(f"{label}: a JSON {type(row).__name__}, not an object with a field {field!r}; "
                      "fix or remove this line")
    if field not in row:
        raise Refusal(f"{label}: no field {field!r}, {near(field, row)} (--text-field names it)")
    if not isinstance(row[field], str):
        raise Refusal(f"{label}: the field {field!r} is a {type(row[field]).__name__}, not text; "
                      "fix this line or choose another --text-field")
    return row[field]


def read_jsonl(path: Path, label: str, field: str):
    """A document a line; blank lines are passed over."""
    opener, number = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open), 0
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield True, text_of(line, f"{label}:{number}", field)
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error) as error:
        raise Refusal(f"{label}:{number + 1}: the compressed file is damaged or cut off here ({error}); "
                      "fetch it again") from None


def read_parquet(path: Path, label: str, field: str):
    """A document a row."""
    arrow, parquet, row = library("pyarrow"), library("pyarrow.parquet"), 0
    try:
        with parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                raise Refusal(f"{label}: no column {field!r}, {near(field, file.schema_arrow.names)} "
                              "(--text-field names it)")
            for batch in file.iter_batches(batch_size=256, columns=[field]):
                for value in batch.column(0):
                    row, text = row + 1, value.as_py()
                    if not isinstance(text, str):
                        kind = type(text).__name__
                        raise Refusal(f"{label}: row {row}: the column {field!r} holds a {kind}, not text; "
                                      "remove the row or choose another --text-field")
                    yield True, text
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).replace("\n", " ")[:160]
        raise Refusal(f"{label}: unreadable parquet after row {row} ({reason}); fetch it again") from None


READERS = {".txt": read_txt, ".jsonl": read_jsonl, ".jsonl.gz": read_jsonl, ".jsonl.xz": read_jsonl,
           ".parquet": read_parquet}


def reader_of(name: str):
    return next((reader for suffix, reader in READERS.items() if name.endswith(suffix)), None)


# ---------------------------------------------------------------- sources: (label, fetch) for each file


def hub_sources(spec: str):
    """(label, fetch) for each file of a hub dataset; `fetch()` downloads it into the hub's cache."""
    owner, name, pattern = (spec[len(HUB_PREFIX):].split("/", 2) + ["", ""])[:3]
    if not owner or not name:
        raise Refusal(f"{spec}: write it as {HUB_PREFIX}OWNER/NAME or {HUB_PREFIX}OWNER/NAME/PATH", code=2)
    api, repo = hub(), f"{owner}/{name}"
    try:  # the library tries a listing again by itself, for some 20 seconds: once is enough here
        listed = retried(spec, lambda: api.list_repo_files(repo, repo_type="dataset"), waits=())
    except ValueError as error:  # a name that the hub's rules exclude
        raise Refusal(f"{spec}: {str(error).splitlines()[0]}", code=2) from None
    known = sorted(file for file in listed if reader_of(file))
    if pattern:
        chosen = [file for file in known if fnmatch.fnmatchcase(file, pattern)
                  or file.startswith(pattern.rstrip("/") + "/")]
    else:
        chosen = [file for file in known if not file.endswith(".txt")]
    if not chosen:
        raise Refusal(f"{spec}: no .jsonl or .parquet file matches; " + (
            near(pattern, known[:20]) if known else "the dataset has none"))

    def fetch(file):
        return Path(retried(file, lambda: api.hf_hub_download(repo, file, repo_type="dataset")))

    return [(f"{HUB_PREFIX}{repo}/{file}", lambda file=file: fetch(file)) for file in chosen]


def find_sources(inputs: list[str]):
    """(label, fetch) for every file of every IN; whatever can be refused at once is."""
    sources = []
    for name in inputs:
        if name.startswith(HUB_PREFIX):
            sources += hub_sources(name)
        elif reader_of(name) is None:
            known = ", ".join([*READERS, HUB_PREFIX + "OWNER/NAME"])
            raise Refusal(f"{name}: unknown kind of file; known: {known}", code=2)
        elif not os.path.isfile(name):
            raise Refusal(f"{name}: no such file; name one that is there", code=2)
        else:
            sources.append((name, lambda name=name: Path(name)))
    return sources


def read(sources, field: str):
    """The pieces of all sources in order; empty documents are passed over, an empty source is refused."""
    for label, fetch in sources:
        empty = True
        for opens, text in reader_of(label)(fetch(), label, field):
            if text:
                empty = False
                yield opens, text
        if empty:
            raise Refusal(f"{label}: empty, no document in it; leave it out or fetch it again")
