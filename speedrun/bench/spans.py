"""Spans of time, (start, end), as sorted lists that do not overlap."""
