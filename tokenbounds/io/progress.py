"""Progress of long work, for whoever watches it."""

import logging
import time

from tqdm import tqdm

log = logging.getLogger(__name__)
_LOG_SECONDS = 20.0


class Steps:
    """A bar on a terminal, otherwise a log line every 20 seconds.

    Parameters
    ----------
    name : str
        What is done.
    count : int, optional
        Number of steps.

    Examples
    --------
    >>> with Steps("tensors", 2) as steps:
    ...     steps.show()
    ...     steps.show()
    """

    def __init__(self, name, count):
        self._name, self._count, self._done = name, count, 0
        self._bar = tqdm(total=count, desc=name, disable=None)
        self._begin = self._logged = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._bar.close()

    def show(self):
        """Show that another step is done."""
        self._done += 1
        self._bar.update()
        now = time.monotonic()
        if self._bar.disable and now - self._logged > _LOG_SECONDS:
            self._logged = now
            if self._count is None:
                log.info("%s: %d", self._name, self._done)
                return
            left = (now - self._begin) / self._done * (self._count - self._done)
            log.info("%s: %d of %d, %.0f s left", self._name, self._done, self._count, left)
