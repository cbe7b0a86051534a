"""Steering: adding emotion vectors while a model reads and writes, and proving whether that changes what it does."""
