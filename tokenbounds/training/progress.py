"""Progress of a training, for whoever watches it."""

import logging
import time

from tqdm import tqdm

log = logging.getLogger(__name__)
_LOG_SECONDS = 30.0


class Progress:
    """A bar on a terminal, otherwise a log line every half minute.

    Parameters
    ----------
    name : str
        The model's name.
    start, steps : int
        Steps already done, and all.
    step_tokens : int
        Tokens per step.
    shown : bool
        False on all processes but the first.
    """

    def __init__(self, name, start, steps, step_tokens, shown):
        self.name, self.start, self.steps, self.step_tokens, self.shown = (
            name,
            start,
            steps,
            step_tokens,
            shown,
        )
        self.bar = tqdm(total=steps, initial=start, desc=name, unit="step", disable=None if shown else True)
        self.begin = self.logged = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def show(self, step, loss):
        """Show that a step is done, and its loss."""
        now = time.monotonic()
        seconds_per_step = (now - self.begin) / (step - self.start)
        speed = f"{self.step_tokens / seconds_per_step:,.0f} tokens/s"
        self.bar.set_postfix_str(f"loss {loss:.3f}, {speed}", refresh=False)
        self.bar.update()
        if self.shown and self.bar.disable and now - self.logged > _LOG_SECONDS:
            self.logged, left = now, (self.steps - step) * seconds_per_step
            message = "model %s: step %d of %d, loss %.4f, %s, %.0f s left"
            log.info(message, self.name, step, self.steps, loss, speed, left)
