"""Certificates as text for people."""

from tokenbounds.bounds import NOTHING_MORE
from tokenbounds.bounds.methods import HEADLINE, METHODS, label_of
from tokenbounds.certificates.corpus_facts import repetition_in_words

TERMS = ("value", "empirical_risk", "complexity_term", "subsample_term")
COLUMNS = {"bound": 10, "= risk": 10, "+ complexity": 14, "+ draws": 10}  # widths of the TERMS
UNITS = {"bpd": "bits"}


def units(certificate):
    """Name the unit of m: documents or tokens."""
    return "documents" if certificate["sampling"]["mode"] == "document" else "tokens"


def describe_certificate(certificate):
    """Describe a certificate as text: every bound with its terms, and the assumptions of the methods."""
    metrics = certificate["metrics"]
    names = list(dict.fromkeys(name for entry in metrics.values() for name in entry["bounds"]))
    width = max(map(len, map(label_of, names))) + 2
    header = "".join(f"{title:>{column}}" for title, column in COLUMNS.items())
    lines = [
        certificate["name"],
        f"  C(h) = {certificate['hypothesis']['message_bytes']:,} bytes, "
        f"m = {certificate['m']:,} {units(certificate)}, n = {certificate['n']:,} draws, "
        f"delta = {certificate['delta']:g}, V = {certificate['vocab_size']:,}",
        f"  {'metric':8}{'method':{width}}{header}{'guess':>10}",
    ]
    for metric, entry in metrics.items():
        for name, bound in entry["bounds"].items():
            terms = zip((bound[term] for term in TERMS), COLUMNS.values(), strict=True)
            numbers = "".join(f"{term:{column}.4f}" for term, column in terms)
            vacuous = "  vacuous" if bound["value"] >= entry["random_guess"] else ""
            saving = f"  {entry['saving_percent']:.0f}% below the formula" if name == HEADLINE.name else ""
            ending = f"{entry['random_guess']:10.4f} {UNITS.get(metric, '')}{saving}{vacuous}"
            lines.append(f"  {metric:8}{label_of(name):{width}}{numbers}{ending}".rstrip())
    methods = [METHODS[name] for name in names if name in METHODS]
    notes = [method.note for method in methods if method.assumes != NOTHING_MORE]
    corpus = certificate["corpus"]
    notes += [f"tokenizer: {corpus['tokenizer']['assumes']}", f"text: {repetition_in_words(corpus)}"]
    notes += certificate["assumes"]
    return "\n".join([*lines, *(f"  {note}" for note in notes)])
