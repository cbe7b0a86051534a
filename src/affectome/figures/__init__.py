"""One function per figure: tables in, figure out. `draw` reads the tables of a run and writes all of them."""
