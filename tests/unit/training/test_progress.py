"""Progress: log lines where there is no terminal."""

import logging
import re

from support.trainings import model, train_in

from tokenbounds.training import progress


def test_progress_lines_without_a_terminal(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(progress, "_LOG_SECONDS", 0.0)
    with caplog.at_level(logging.INFO):
        train_in(tmp_path, model())
    assert re.search(r"model small: step 7 of 12, loss \d\.\d{4}, [\d,]+ tokens/s, \d+ s left", caplog.text)
    assert re.search(
        r"model small: step 10 of 12, nats per token: training \d\.\d{4}, validation \d\.\d{4}", caplog.text
    )
