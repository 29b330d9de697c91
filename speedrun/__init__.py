"""The library under train_gpt.py and scripts/: what trains a model, what judges its log, and what uses both.

docs/architecture.md shows who may import whom; tests/commands/test_layers.py holds it. ROOT is the folder of
the checkout.
"""
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
