"""Texts: where they come from, what is dropped, and the tables that hold them."""
