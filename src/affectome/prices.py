"""What services charge for tokens, as their public price lists say."""

import csv
from functools import cache
from pathlib import Path

_FILE = Path(__file__).resolve().parents[2] / "resources" / "api_prices.csv"

# What a request in a batch costs of one that is answered at once.
BATCH_SHARE = 0.5


@cache
def prices() -> dict[str, tuple[float, float]]:
    """US dollars per million tokens read and written, by the service's model (`resources/api_prices.csv`)."""
    with open(_FILE, encoding="utf-8", newline="") as file:
        return {row["model"]: (float(row["input"]), float(row["output"])) for row in csv.DictReader(file)}
