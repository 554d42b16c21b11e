"""The errors of this package."""


class ModelError(Exception):
    """A checkpoint cannot be found, is incomplete, or cannot do what is asked of it."""

    exit_code = 1


class DeviceLostError(ModelError):
    """The GPU does not answer this process any more; another process may find it well."""
