"""Runs that are started to compare: what compare, fork, replay, sweep, challenge and verify --rerun do.

pairs.compare trains two sides in turn; fork.fork continues trunks under several recipes, read by
variants.read_variants; replay.replay and replay.rerun train a logged run again, challenge.challenge_record
the first steps of a record's seed; sweep.sweep tunes a recipe.
"""
