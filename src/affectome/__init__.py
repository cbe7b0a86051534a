"""affectome: emotion directions in language models, from seed words to a report.

Everything a rule of the workflow does can be called from here without Snakemake; the rules in `rules/` only say what
depends on what.
"""

__version__ = "0.1.0"
