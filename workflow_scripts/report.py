"""Make one table or figure from its files."""

from common import script

from tokenbounds.plugins import load


@script
def main(input, output, draw, spec, threads):
    """Call the function that the rule names: `draw(inputs, spec, outputs)` with dictionaries of paths."""
    load(draw)(dict(input.items()), {**spec, "threads": threads}, dict(output.items()))
