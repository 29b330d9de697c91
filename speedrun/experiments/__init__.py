"""Runs that are started to compare: what the scripts compare, fork, replay and sweep (and verify --rerun) do.

pairs.compare trains two sides in turn; fork.fork continues trunks under several recipes, read by
variants.read_variants; replay.replay and replay.rerun train a logged run again; sweep.sweep tunes a recipe.
"""
