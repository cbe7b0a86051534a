"""One archive per run, to hand round: what is in it, how it describes itself, and how it is checked elsewhere."""
