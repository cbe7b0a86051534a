"""What a corpus has cost so far, and the end of its budget."""

from pathlib import Path

from affectome.corpus.replies import read_replies
from affectome.errors import UserError

# Tokens read and written of a request before any has been answered.
_EXPECTED = (400, 300)


class Spending:
    """The purse of a corpus whose replies are kept in `folder` (`affectome.corpus.replies`).

    It counts what all jobs of the corpus have spent up to this moment, failed and repeated requests included. `price`
    is in US dollars per million tokens read and written, None where nobody has written it down; `budget` is in US
    dollars, None for no limit.
    """

    def __init__(self, folder: Path, price: tuple[float, float] | None, budget: float | None, config_key: str) -> None:
        self._folder, self._price, self._budget, self._config_key = folder, price, budget, config_key
        self._counted: dict[Path, int] = {}
        self._read = self._written = self._replies = 0

    def dollars(self) -> float | None:
        """US dollars spent so far, None where the price is not known."""
        if self._price is None:
            return None
        self._count()
        return self._cost(self._read, self._written)

    def allow(self, under_way: int) -> bool:
        """Whether the budget bears one more request beside those `under_way`, at what requests have cost on average."""
        spent = self.dollars()
        if spent is None or self._budget is None:
            return True
        mean = spent / self._replies if self._replies else self._cost(*_EXPECTED)
        return spent + (under_way + 1) * mean <= self._budget

    def exhausted(self) -> UserError:
        """What to say when the budget is used up."""
        return UserError(
            f"the budget of ${self._budget:g} is used up (${self.dollars() or 0:.2f} spent); raise "
            f"{self._config_key}.budget_usd and rerun: what is written is kept, and only the rest is asked for"
        )

    def _cost(self, read: int, written: int) -> float:
        return (self._price[0] * read + self._price[1] * written) / 1e6 if self._price else 0.0

    def _count(self) -> None:
        """Count the replies that have been added since the last look."""
        for file in self._folder.glob("*.jsonl"):
            counted = self._counted.get(file, 0)
            if file.stat().st_size <= counted:
                continue
            for _start, end, reply in read_replies(file, counted):
                self._read += reply["read"]
                self._written += reply["written"]
                self._replies += 1
                self._counted[file] = end
