"""What forks show: the paired differences of the variants, and what sharing the trunk saved."""
from speedrun.log.format import Log
from speedrun.stats import intervals, planning


def weigh(trunks: dict[int, Log], forks: dict[str, dict[int, Log]]) -> dict:
    """Every variant against the first, paired by seed; plain JSON. trunks: seed -> log, complete; forks:
    variant -> seed -> log, complete, the first variant first.

    Returns track, target, at, seeds, reference, variants, seconds. A variant has steps, val_loss (seed ->
    the last loss, nats), mean, sd and, but for the first, `difference`: intervals.paired of its losses minus
    the first's with unpaired_seeds, as many seeds of each as unrelated full runs would have taken for an
    interval as narrow (None where there is no interval). seconds are of the training clock.
    """
    reference, seeds = next(iter(forks)), list(trunks)
    some = forks[reference][seeds[0]]
    losses = {name: [logs[seed].series[seed][-1].val_loss for seed in seeds] for name, logs in forks.items()}
    variants = {}
    for name, ends in losses.items():
        found = intervals.mean_interval(ends)
        variants[name] = dict(steps=forks[name][seeds[0]].header["recipe"]["steps"],
                              val_loss=dict(zip(seeds, ends)), mean=found["mean"], sd=found["sd"],
                              logs=[str(forks[name][seed].path) for seed in seeds])
        if name != reference:
            variants[name]["difference"] = difference(ends, losses[reference])
    track = some.header["track"]
    return dict(track=track["name"] if track["official"] else "custom", target=track["target"],
                at=some.last("fork")["step"], seeds=seeds, reference=reference, variants=variants,
                seconds=seconds(trunks, forks))


def difference(a: list[float], b: list[float]) -> dict:
    """intervals.paired of a - b, and unpaired_seeds."""
    found, need = intervals.paired(a, b), None
    sds = intervals.mean_interval(a)["sd"], intervals.mean_interval(b)["sd"]
    if found["low"] is not None and any(sds):
        need = planning.seeds_for_interval((found["high"] - found["low"]) / 2, sds)
    return dict(found, unpaired_seeds=need)


def seconds(trunks: dict[int, Log], forks: dict[str, dict[int, Log]]) -> dict:
    """Of the training clock: trunks, forks (their own part), full (what the same runs take from their first
    step on), saved."""
    full = own = 0.0
    for logs in forks.values():
        for seed, log in logs.items():
            took = log.series[seed][-1].train_time
            full, own = full + took, own + took - log.last("fork")["seconds"]
    shared = sum(log.series[seed][-1].train_time for seed, log in trunks.items())
    return {name: round(value, 3) for name, value in
            dict(trunks=shared, forks=own, full=full, saved=full - own - shared).items()}


########################################
#               In words               #
########################################


def lines(found: dict) -> list[str]:
    """The result for a person."""
    n, reference = len(found["seeds"]), found["reference"]
    width = max(map(len, found["variants"]))
    out = [f"{found['track']}: {n} trunk{'s' * (n > 1)} forked at step {found['at']}, "
           f"seed{'s' * (n > 1)} {' '.join(map(str, found['seeds']))}; differences are to {reference}"]
    for name, row in found["variants"].items():
        sd = "" if row["sd"] is None else f" (sd {row['sd']:.5f})"
        out.append(f"{name:<{width}}  step {row['steps']}: {row['mean']:.5f}{sd}{compared(row)}")
    if len({row["steps"] for row in found["variants"].values()}) > 1:
        out.append("the variants stop at different steps; each loss is that of its own last step")
    for name, row in found["variants"].items():
        if "difference" in row:
            out.append(verdict(name, row["difference"], reference))
    return [*out, time_words(found["seconds"])]


def compared(row: dict) -> str:
    """The difference of a variant with its interval and correlation, "" for the reference."""
    if (d := row.get("difference")) is None:
        return ""
    words = f"  {d['mean']:+.5f}"
    if d["low"] is not None:
        words += f" (95 % {d['low']:+.5f} to {d['high']:+.5f})"
    if d["correlation"] is not None:
        words += f", correlation {d['correlation']:.2f}"
    return words


def verdict(name: str, d: dict, reference: str) -> str:
    """One sentence on the difference, and one on what it saves to pair."""
    if d["p"] is None:
        return f"{name}: one seed or equal differences tell nothing of the noise, so there is no test"
    side = "not significantly different from" if d["p"] >= 0.05 else "below" if d["mean"] < 0 else "above"
    more = "" if d["unpaired_seeds"] is None else (
        f"; unrelated full runs need {d['unpaired_seeds']} seeds of each for as narrow an interval")
    return f"{name}: {side} {reference}, two-sided p = {d['p']:.2g} over {d['n']} pairs{more}"


def time_words(spent: dict) -> str:
    hours = {name: value / 3600 for name, value in spent.items()}
    share = spent["saved"] / spent["full"] if spent["full"] else 0.0
    return (f"training clock: {hours['trunks']:.3f} h for the trunks and {hours['forks']:.3f} h for the "
            f"forks; full runs take {hours['full']:.3f} h, so {hours['saved']:.3f} h ({share:.0%}) are saved")
