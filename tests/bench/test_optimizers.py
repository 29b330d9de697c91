"""scripts/bench_optimizers.py: a run on small matrices, whose figures follow from the mathematics."""
import json

import pytest

from optimizers.polar import METHODS
from scripts import bench_optimizers
from speedrun.bench.optimizers import COLUMNS


@pytest.fixture(scope="module")
def rows():
    argv = ["--stack", "64x16:2", "16x16", "--repeat", "1", "--device", "cpu", "--json"]
    with pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr(bench_optimizers, "print_json", said.append)
        assert bench_optimizers.main(argv) == 0
    found = json.loads(json.dumps(said[0]))
    assert found["stack"] == ["64x16:2", "16x16"] and found["device"].startswith("cpu")
    return {row["name"]: row for row in found["rows"]}


def test_every_optimizer_schedule_method_and_the_peer_have_a_row(rows):
    assert {f"muon {method}" for method in METHODS} < set(rows)
    assert {f"aurora {schedule}" for schedule in ("restart", "polish", "warm", "algorithm3")} < set(rows)
    assert {f"aurora restart {method}" for method in METHODS if method != "quintic12"} < set(rows)
    assert {"torch.Muon quintic5", "normuon track3", "normuon paper", "unormuon", "riemannian"} < set(rows)
    for name, row in rows.items():
        assert set(row) == {"name", *COLUMNS}, name
        assert row["ms"] > 0 and row["launches"] > 0 and row["peak_mib"] > 0 and row["gflop"] > 0, name


def test_the_figures_are_those_of_the_updates(rows):
    muon, aurora = rows["muon exact"], rows["aurora restart exact"]
    for row in (muon, aurora):  # orthonormal columns
        assert row["sigma_min"] == pytest.approx(1, abs=1e-4) == row["sigma_max"]
        assert row["row_norm"] <= 1 + 1e-6
    assert muon["alignment"] == pytest.approx(1, abs=1e-4) and aurora["alignment"] < 0.99
    assert aurora["row_spread"] < 0.2 * muon["row_spread"]
    even = rows["unormuon"]
    assert even["row_spread"] < 1e-5 and even["row_norm"] == pytest.approx(1, abs=1e-5)
    assert rows["muon quintic5"]["sigma_max"] > 1.1 > rows["muon quintic12"]["sigma_max"]
    ratio = rows["aurora restart"]["gflop"] / rows["muon quintic12"]["gflop"]
    assert 1.5 < ratio < 2  # two polars for the tall matrices, one for the square one
    assert rows["aurora polish"]["gflop"] < 1.05 * rows["muon quintic12"]["gflop"]
