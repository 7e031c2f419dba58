"""Certified token-level generalization bounds for language models.

Importing the package is cheap: nothing here loads torch. ``docs/theory.md`` has the mathematics,
``README.md`` the pipeline and the map of the rooms.
"""

__version__ = "0.5.0"
