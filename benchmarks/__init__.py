"""Measurements of the workflow; `README.md` beside this file holds the last figures. Nothing here is a test."""
