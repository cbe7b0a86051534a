"""Serving: an OpenAI-compatible server whose every request may be steered, its engines, and its dashboard."""
