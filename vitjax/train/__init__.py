"""The trainer: from a recipe to a run."""

# Exit status of what was told to leave and has saved all (EX_TEMPFAIL): the same command goes on.
PREEMPTED = 75
