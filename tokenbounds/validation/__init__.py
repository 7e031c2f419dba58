"""Validation: simulations that try to break the bounds, and effects of departures from the published code.

In: processes with known conditional means, and a finished run. Out: docs/validity.md with its tables and
figure, and docs/deviations/effects.csv. Run a part with ``python -m tokenbounds.validation.coverage`` or
``python -m tokenbounds.validation.deviations``.
"""
