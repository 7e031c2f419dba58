"""Selection of the result that a row shows."""

from tokenbounds.bounds.methods import HEADLINE
from tokenbounds.errors import InputError


def best_of(certificates, counts):
    """Select from each run of `counts` consecutive certificates the one with the least headline bound on BPD.

    Each must have been made for a selection from so many (`bounds.candidates`); else `InputError`.
    """
    chosen, start = [], 0
    for count in counts:
        group = certificates[start : start + count]
        for certificate in group:
            candidates = certificate["settings"]["candidates"]
            if candidates < count:
                made = f"{certificate['name']}: a bound for one of {candidates} candidates"
                raise InputError(f"{made}; expected one for {count}, as the best of so many is shown")
        chosen.append(min(group, key=headline_bpd))
        start += count
    return chosen


def headline_bpd(certificate):
    """Look up the headline bound on bits per token."""
    return certificate["metrics"]["bpd"]["bounds"][HEADLINE.name]["value"]
