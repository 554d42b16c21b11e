"""The one error of this package."""


class ModelError(Exception):
    """A checkpoint cannot be found, is incomplete, or cannot do what is asked of it."""

    exit_code = 1
