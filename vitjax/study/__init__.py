"""Data scale against inductive bias: a grid of runs, and what its numbers say."""
