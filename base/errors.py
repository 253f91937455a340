"""The one kind of error that a user can mend."""


class UserError(Exception):
    """One line for the user: the value, what was expected, and the mend. Scripts exit with 2."""


class Diverged(UserError):
    """A training whose loss is not finite any more."""
