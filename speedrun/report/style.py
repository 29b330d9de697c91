"""The style sheet of a report's page: light and dark by the reader's setting, from 320 px upwards.

The lines' colours start from those of Okabe and Ito (jfly.uni-koeln.de/color). Each differs from its
theme's page by at least 3 : 1 (WCAG 2.2, 1.4.11), and any two stay apart for colour-blind readers.
"""

LIGHT = ("#0072b2", "#d55e00", "#009e73", "#cc6fa5", "#7a4b00", "#3a3f45")
DARK = ("#3d9be0", "#e8702a", "#56d8b0", "#cc6fa5", "#f5e05a", "#ffffff")


def _colours(palette: tuple) -> str:
    return " ".join(f"--k{i}: {colour};" for i, colour in enumerate(palette))


STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --ink: #1b1f24; --soft: #57606a; --rule: #d0d7de; --grid: #e8ebef;
  LIGHT
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --ink: #e6e9ed; --soft: #a3abb5; --rule: #3d444d; --grid: #272c33;
    DARK
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 70rem; margin: 0 auto; padding: 1.25rem 1rem 3rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-bottom: .2rem;
  border-bottom: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 0 0 .2rem; }
p, ul { margin: .4rem 0; max-width: 46rem; }
ul { padding-left: 1.2rem; }
.soft, figcaption { color: var(--soft); font-size: .875rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9375rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); font-size: .875rem; padding-bottom: .3rem; }
th, td { padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--rule); overflow-wrap: normal; }
td.long { overflow-wrap: anywhere; min-width: 7rem; }
tbody th { font-weight: 500; }
tbody th[scope=rowgroup] { color: var(--soft); font-size: .875rem; padding-top: .9rem; }
summary { cursor: pointer; padding: .3rem 0; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; }
.sample { width: 34px; height: 14px; vertical-align: -2px; margin-right: .45rem; }
.charts { display: grid; gap: 1.6rem 2rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.runs { display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }
dl { margin: 0; display: grid; grid-template-columns: auto 1fr; gap: .1rem .8rem; font-size: .9375rem; }
dt { color: var(--soft); }
dd { margin: 0; }
.whole { white-space: nowrap; }
figure { margin: 0; max-width: 36rem; min-width: 0; }
.chart { display: block; width: 100%; height: auto; }
.chart text { font-size: 12px; fill: var(--ink); }
.chart text.axis, .chart text.note { fill: var(--soft); }
@media (min-width: 58rem) { .chart text { font-size: 9.5px; } }
.middle { text-anchor: middle; }
.end { text-anchor: end; }
.grid { stroke: var(--grid); }
.tick { stroke: var(--soft); fill: none; }
.level { stroke: var(--ink); fill: none; stroke-dasharray: 1.5 2.5; }
.leader { stroke: var(--soft); stroke-width: .6; fill: none; }
.line { stroke: var(--c); stroke-width: 1.8; fill: none; stroke-linejoin: round; }
.seed { stroke: var(--c); stroke-width: .6; fill: none; opacity: .55; }
.band { fill: var(--c); opacity: .2; }
.interval { stroke: var(--c); stroke-width: 2.2; fill: none; }
.marker { fill: var(--c); stroke: var(--page); stroke-width: .7; }
.marker.hollow { fill: var(--page); stroke: var(--c); stroke-width: 1.4; }
.c0 { --c: var(--k0); } .c1 { --c: var(--k1); } .c2 { --c: var(--k2); }
.c3 { --c: var(--k3); } .c4 { --c: var(--k4); } .c5 { --c: var(--k5); }
:focus-visible { outline: 2px solid var(--k0); outline-offset: 2px; }
@media (max-width: 30rem) {
  main { padding-inline: .8rem; }
  th, td { padding-right: .6rem; font-size: .875rem; }
}
""".replace("LIGHT", _colours(LIGHT)).replace("DARK", _colours(DARK))
