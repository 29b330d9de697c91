"""One line chart as inline SVG. Its colours are those of the page's CSS (style.py), so it follows the
theme; lines also differ in dash and marker, and are named at their ends."""
import math
from dataclasses import dataclass, field
from xml.etree.ElementTree import Element

import numpy as np

from speedrun.stats import words

from .curves import Curve
from .markup import element

WIDTH, HEIGHT = 360, 250            # units; the text of the page's CSS is sized in them
LEFT, TOP, BOTTOM, GAP = 46, 26, 36, 13
COLOURS = 6
DASHES = (None, "7 3", "2 2.5", "8 3 2 3", "12 3", "4 2 1 2 1 2")
MARKERS = ("M-3.2 0A3.2 3.2 0 1 0 3.2 0A3.2 3.2 0 1 0 -3.2 0Z", "M-3-3H3V3H-3Z", "M0-3.8L3.8 3H-3.8Z",
           "M0-4.2L4.2 0L0 4.2L-4.2 0Z", "M0 3.8L3.8-3H-3.8Z",
           "M-4-1.3H-1.3V-4H1.3V-1.3H4V1.3H1.3V4H-1.3V1.3H-4Z")
MOST_LINES = 2 * COLOURS            # the second six have hollow markers and other dashes


@dataclass(frozen=True)
class Line:
    """A curve in the style of its number, with its name and the short label at its end.

    seeds: thin lines beside it. mark: a mean crossing step with its interval, on the chart's level.
    """

    style: int
    name: str
    label: str
    curve: Curve
    seeds: list = field(default_factory=list)
    mark: dict | None = None


@dataclass(frozen=True)
class Scale:
    """From `low`..`high` to `start`..`end`."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def frame(values, pad: float = 0.06) -> tuple[float, float]:
    """What an axis shows for these values: never an empty range."""
    low, high = min(values), max(values)
    least = 1e-6 * max(abs(low), abs(high), 1e-3)
    span = high - low if high - low > least else 1e3 * least
    return low - pad * span, high + pad * span


def ticks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Round values within the range, and how they are written."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(k * power for k in (1, 2, 5, 10) if k * power >= rough * (1 - 1e-9))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    values = [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [(v, f"{v:.4g}" if abs(v) >= 1e6 or digits > 6 else f"{v:,.{digits}f}") for v in values]


def apart(places: list[float], low: float, high: float) -> list[float]:
    """The places moved as little as one sweep each way takes to be GAP apart and within the range."""
    order = sorted(range(len(places)), key=places.__getitem__)
    moved, before = list(places), low - GAP
    for i in order:
        before = moved[i] = max(moved[i], before + GAP)
    after = high + GAP
    for i in reversed(order):
        after = moved[i] = min(moved[i], after - GAP)
    return moved


def marker(style: int, x: float, y: float, title: str | None = None) -> Element:
    """The marker of a style."""
    hollow = " hollow" if style % MOST_LINES >= COLOURS else ""
    return element("path", element("title", title) if title else None, d=MARKERS[style % COLOURS],
                   transform=f"translate({x:.1f} {y:.1f})", class_=f"marker c{style % COLOURS}{hollow}")


def sample(style: int) -> Element:
    """A piece of line in a style, for a legend."""
    return element("svg", _path([(0, 7), (34, 7)], style), marker(style, 17, 7), viewBox="0 0 34 14",
                   class_="sample", aria_hidden="true")


def _d(points) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _path(points, style: int) -> Element:
    dash = DASHES[(style + style // COLOURS) % len(DASHES)]
    return element("path", d=_d(points), class_=f"line c{style % COLOURS}", stroke_dasharray=dash)


def _axes(x: Scale, y: Scale, x_label: str, y_label: str) -> list[Element]:
    found = [element("text", y_label, x=2, y=12, class_="axis"),
             element("text", x_label, x=(x.start + x.end) / 2, y=HEIGHT - 3, class_="axis middle")]
    for value, text in ticks(y.low, y.high, 6):
        at = f"{y(value):.1f}"
        found += [element("line", x1=x.start, x2=x.end, y1=at, y2=at, class_="grid"),
                  element("text", text, x=x.start - 5, y=f"{y(value) + 4:.1f}", class_="end")]
    for value, text in ticks(x.low, x.high, 5):
        at = f"{x(value):.1f}"
        found += [element("line", x1=at, x2=at, y1=y.start, y2=y.start + 4, class_="tick"),
                  element("text", text, x=at, y=y.start + 17, class_="middle")]
    return found + [element("path", d=_d([(x.start, y.end), (x.start, y.start), (x.end, y.start)]),
                            class_="tick")]


def _level(x: Scale, y: Scale, value: float, text: str, lines: list[Line]) -> list[Element]:
    """A horizontal line with its name: above or below it, left or right, where the fewest curves pass."""
    at, width = y(value), 7 * len(text)
    places = [(left, baseline) for left in (x.start + 5, x.end - 5 - width)
              for baseline in (at + 15, at - 5) if y.end < baseline - 9 and baseline + 3 < y.start]
    left, baseline = min(places, key=lambda place: _passing(lines, x, y, place, width),
                         default=(x.start, at - 5))
    middle = f"{left + width / 2:.1f}"
    return [element("path", d=_d([(x.start, at), (x.end, at)]), class_="level"),
            element("text", text, x=middle, y=f"{baseline:.1f}", class_="note middle")]


def _passing(lines: list[Line], x: Scale, y: Scale, place: tuple, width: float) -> int:
    """At how many of some places the curves pass through the text that starts there."""
    left, baseline = place
    back = Scale(x.start, x.end, x.low, x.high)
    at = [back(left + width * k / 12) for k in range(13)]
    heights = [y(b) for line in lines
               for b in np.interp(at, *zip(*line.curve.points), left=math.inf, right=math.inf)]
    return sum(baseline - 14 < height < baseline + 6 for height in heights)


def _line(line: Line, x: Scale, y: Scale, x_label: str, level: float | None) -> tuple[list, list]:
    """Its band, seeds and curve; and its markers, which lie over every line."""
    def to(points):
        return [(x(a), y(b)) for a, b in points]

    colour = f"c{line.style % COLOURS}"
    band = [line.curve.band] * bool(line.curve.band)
    under = [element("path", d=_d(to(outline)) + "Z", class_=f"band {colour}") for outline in band]
    under += [element("path", d=_d(to(points)), class_=f"seed {colour}") for points in line.seeds]
    under.append(_path(to(line.curve.points), line.style))
    seen = [(a, b) for a, b in line.curve.points if a in x and b in y]
    some = {seen[(2 * k + 1 + line.style % 2) * (len(seen) - 1) // 16] for k in range(8)} if seen else ()
    over = [marker(line.style, x(a), y(b), f"{line.name}, {x_label} {a:,.5g}: {b:.5g}")
            for a, b in sorted(some)]
    if line.mark and level is not None and line.mark["mean"] in x:
        at, low, high = (line.mark[name] for name in ("mean", "low", "high"))
        title = f"{line.name} crosses at {words.interval(line.mark, ',.1f', '95 % ')}"
        if low is not None:
            over.append(element("path", element("title", title), class_=f"interval {colour}",
                                d=_bar(x(low), x(high), y(level))))
        over.append(marker(line.style, x(at), y(level), title))
    return under, over


def _bar(low: float, high: float, at: float) -> str:
    """An interval with its ends marked."""
    return f"M{low:.1f} {at - 6:.1f}v12M{low:.1f} {at:.1f}H{high:.1f}M{high:.1f} {at - 6:.1f}v12"


def _names(lines: list[Line], x: Scale, y: Scale) -> list[Element]:
    """Each line's label beside its last point in the frame."""
    ends = [(line, [(a, b) for a, b in line.curve.points if a in x and b in y]) for line in lines]
    ends = [(line, points[-1]) for line, points in ends if points]
    found = []
    for (line, (a, b)), at in zip(ends, apart([y(b) for _, (_, b) in ends], y.end, y.start)):
        found += [element("path", d=_d([(x(a), y(b)), (x.end + 4, at)]), class_="leader"),
                  marker(line.style, x.end + 9, at),
                  element("text", line.label, x=f"{x.end + 16:.1f}", y=f"{at + 4:.1f}")]
    return found


def chart(name: str, description: str, lines: list[Line], labels: tuple[str, str], x_range: tuple,
          y_range: tuple, level: tuple[float, str] | None = None) -> Element:
    """An <svg> of the lines over `x_range` and `y_range`; `name` is unique on the page, `description` what
    a screen reader says. labels: of x and y. level: (value, text) of a horizontal line."""
    right = 20 + 8 * max(len(line.label) for line in lines)
    x = Scale(*x_range, LEFT, WIDTH - right)
    y = Scale(*y_range, HEIGHT - BOTTOM, TOP)
    drawn = [_line(line, x, y, labels[0], level and level[0]) for line in lines]
    clip = element("clipPath", element("rect", x=x.start, y=y.end - 4, width=x.end - x.start + 4,
                                       height=y.start - y.end + 4), id=f"clip-{name}")
    inside = element("g", *(e for under, _ in drawn for e in under),
                     *(e for _, over in drawn for e in over), clip_path=f"url(#clip-{name})")
    across = _level(x, y, *level, lines) if level and level[0] in y else ()
    return element("svg", element("defs", clip), *_axes(x, y, *labels), *across, inside,
                   *_names(lines, x, y), viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_="chart",
                   aria_label=description)
