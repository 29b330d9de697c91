"""Rows of HellaSwag as published, and files of them."""
import pyarrow
import pyarrow.parquet


def row(endings, label, ctx_a="y", ctx_b="", activity="x"):
    return dict(ind=1, activity_label=activity, ctx_a=ctx_a, ctx_b=ctx_b, ctx=f"{ctx_a} {ctx_b}", split="val",
                split_type="indomain", label=label, endings=endings, source_id="none")


def parquet_of(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path.read_bytes()
