"""What would stop or spoil a run, each as a Finding(level, what, cost, fix).

machine.quick is what train_gpt.py asks first; ranks.look is all of it, for scripts/preflight.py. One function
a question: shards, run, collective, machine.
"""
