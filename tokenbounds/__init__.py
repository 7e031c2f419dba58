"""Certified token-level generalization bounds for language models.

Importing the package is cheap: nothing here loads torch. See ``docs/theory.md`` for the mathematics and ``README.md`` for the pipeline.
"""

__version__ = "0.2.0"
