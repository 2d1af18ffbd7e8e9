"""Images in: sources, decoding, order, subsets and batches. NumPy and grain only, never jax."""
