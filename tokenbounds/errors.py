"""The one exception that users see as a single line."""


class InputError(ValueError):
    """Something given to tokenbounds is not as it must be.

    The message is one line that names the file (or key), the value found and what was expected. Scripts and the command line print it
    without a traceback and exit with status 1; any other exception is a defect and keeps its traceback.
    """
