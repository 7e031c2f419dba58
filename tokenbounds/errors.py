"""The one exception that users see as a single line."""


class InputError(ValueError):
    """An input of tokenbounds (a file, a key of the configuration, an argument) is wrong.

    The message is one line that names the file (or key), the value and the expected value. Scripts and the
    command line print it without a traceback and exit with status 1; any other exception is a defect and
    keeps its traceback."""
