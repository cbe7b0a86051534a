"""One module per question asked of the vectors; each turns vector files into a table of numbers."""
