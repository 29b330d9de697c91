"""How long things take: step (a training step and its parts, the fast path, another script beside ours; modes
has what may be asked of it) and optimizers (side by side on one stack of matrices), one for each command.
"""
