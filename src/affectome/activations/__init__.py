"""Activations: tokenising, batching, pooling inside forward hooks, and the HDF5 store."""
