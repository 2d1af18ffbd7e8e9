"""What a recipe needs of a pod that is not here: the real train step, compiled on any CPU."""
