"""Spans of time, (start, end), as sorted lists that do not overlap."""


def union(spans) -> list[tuple[float, float]]:
    """The time covered by any of `spans`."""
    found: list = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def meet(a: list, b: list) -> list[tuple[float, float]]:
    """The time covered by both of two unions."""
    found, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        start, end = max(a[i][0], b[j][0]), min(a[i][1], b[j][1])
        if start < end:
            found.append((start, end))
        if a[i][1] < b[j][1]:
            i += 1
        else:
            j += 1
    return found


def length(spans: list) -> float:
    """The time a union covers."""
    return sum(end - start for start, end in spans)
