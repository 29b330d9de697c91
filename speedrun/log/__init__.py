"""The record log: its format, and what may be read from it and from a run's folder. Standard library only.

writer.LogWriter writes one, reader.read_log reads it into a format.Log of format.Points; run.LoggedRun is one
with a complete header (header.schema_errors), command.Command its command line; folder: names, lock.
"""
