"""The board: every record that stands, in order; beside it the public results of modded-nanogpt's track 3.

For others: standings.read_board and standings; page.page; others.read_others; track3.ingest, series, TARGET.
"""
