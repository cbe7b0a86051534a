"""The one exception for a mistake its reader can mend."""


class UserError(Exception):
    """Something the user can put right: the message says what is wrong, what is allowed and what to do next.

    Commands and jobs print it as it is, without a traceback.
    """


class DamagedFileError(UserError):
    """A file that jobs pass on is not whole: the message names it and says to delete it."""
