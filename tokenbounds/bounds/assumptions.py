"""Assumptions of bounds and certificates, as the sentences that they show: each stands here only."""

NOTHING_MORE = "nothing more"  # for `Method.assumes`

# For every bound: what it is about (docs/theory.md, section 9).
CONDITIONING = (
    "M is the mean expected loss of each token (or document) given everything before it in the corpus, not "
    "only its own document"
)

# For every certificate, word for word as in docs/theory.md, section 10: what the derived draws rest on.
DRAWS_STATEMENT = (
    "Model the hash as a random oracle. If message, index, scheme and n were fixed without evaluating it at "
    "them, the draws are IID, independent of (data, h), and the certificate holds with probability 1-δ. "
    "Re-tuning gets fresh draws; but if the reported certificate is the best of, or the one at which one "
    "stopped after, N certificates *computed* for any message, n, scheme, mode or beacon, it holds only with "
    "δ2/N (and δ3/N, section 12): `candidates: N`, fixed beforehand; with N open, the k-th attempt takes "
    "δ2/(k(k+1)). Choosing among messages by their pilots alone is free: the rest of the chosen one is "
    "independent of all pilots."
)
WITHOUT_BEACON = "Without a beacon this protects against accidental fitting, not against a grinder."
