"""What files and replies from elsewhere may say in a terminal."""


def printable(text: str, kept: str = "") -> str:
    """`text` without what would steer the terminal, each such sign a question mark; those in `kept` stay."""
    return "".join(sign if sign.isprintable() or sign in kept else "?" for sign in text)
