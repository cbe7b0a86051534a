"""Where existing texts come from, and what their cells mean."""
