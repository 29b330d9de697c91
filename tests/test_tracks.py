"""A track: its validation grid, and that it never changes."""


from optimizers import resolve
from tracks import TRACKS


def test_validation_grid():
    track, recipe = TRACKS["fineweb-124m"], resolve("muon", "fineweb-124m")
    steps = [s for s in range(recipe.steps + 1) if track.validates(s, recipe.steps, recipe.schedule_steps)]
    assert steps[:3] == [0, 125, 250] and steps[-3:] == [3200, 3225, 3250]
    assert 2925 in steps and 2950 in steps and 2900 not in steps
