"""Text that strangers wrote: read within bounds, parsed strictly, and printed so that it stays text."""
import json
import lzma
import math
import re
import zlib
from pathlib import Path

from .cli import Refusal

MAX_BYTES = 64 * 2**20  # of text; a log is some hundred kilobytes
WANTED = "name a record log: .txt, .gz or .xz"  # the fix, for a file that cannot be one


def printable(text, limit: int = 160) -> str:
    """`text` in one line that a terminal takes as text: control and invisible characters as escapes."""
    text = str(text)
    shown = text[:limit] + ("..." if len(text) > limit else "")
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in shown)


def source_text(path: Path) -> str:
    """The text of a source file as a log holds it: with a newline after its last line."""
    text = path.read_text(encoding="utf-8")
    return text if text.endswith("\n") or not text else text + "\n"


def read_text(path: Path) -> str:
    """The text of a .txt, .gz or .xz log. Refusal where it cannot be read or is over 64 MB unpacked; its
    code is 2 where no such file is there: the command line named it."""
    path = Path(path)
    try:
        if not path.is_file():
            reason = "it is no regular file" if path.exists() else "No such file or directory"
            raise Refusal(f"{printable(path)}: cannot read this log ({reason}); {WANTED}", code=2)
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if path.suffix in (".gz", ".xz") and len(data) <= MAX_BYTES:
            data = _unpack(data, path.suffix)
    except (OSError, ValueError, EOFError, MemoryError, lzma.LZMAError, zlib.error) as error:
        why = getattr(error, "strerror", None) or error
        raise Refusal(f"{printable(path)}: cannot read this log ({printable(why)}); {WANTED}") from None
    if len(data) > MAX_BYTES:
        size = f"more than {MAX_BYTES // 2**20} MB of text"
        raise Refusal(f"{printable(path)}: {size} is no record log; {WANTED}")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Refusal(f"{printable(path)}: not UTF-8 text, so no record log; {WANTED}") from None


def _unpack(data: bytes, suffix: str) -> bytes:
    """At most MAX_BYTES + 1 bytes of one gzip or xz stream; EOFError unless the data is exactly one."""
    decoder = zlib.decompressobj(31) if suffix == ".gz" else lzma.LZMADecompressor(memlimit=2**28)
    text = decoder.decompress(data, MAX_BYTES + 1)
    if len(text) <= MAX_BYTES and not decoder.eof:
        raise EOFError("the compressed file is cut short")
    if decoder.unused_data:
        raise EOFError("something follows the end of the compressed log")
    return text


def plain_json(text: str) -> dict:
    """A JSON object with each key once, finite numbers, integers of up to 18 digits; else ValueError."""
    def once(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a key stands twice")
        return found

    def refuse(name):
        raise ValueError(f"{name} is no JSON")

    def whole(digits):
        return int(digits) if len(digits) <= 18 else refuse("so long an integer")

    def finite(digits):
        value = float(digits)
        return value if math.isfinite(value) else refuse("so large a number")

    try:
        found = json.loads(text, object_pairs_hook=once, parse_constant=refuse, parse_int=whole,
                           parse_float=finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found if isinstance(found, dict) else refuse("what is no object")


def without_folders(text: str, *known: Path) -> str:
    """`text` with every path cut to its last part, for a log that others read; a path in one of the `known`
    folders also where it has a space."""
    for folder in known:
        text = text.replace(f"{folder.absolute().parent}/", "")
    return re.sub(r"/\S*/", "", text)
