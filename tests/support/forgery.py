"""Certificates that are forged, files that are damaged, and the checks that find it."""

from support.runs import certificate_path
from tokenbounds.certificates.evaluate import metrics
from tokenbounds.certificates.make import records_of, smoothing
from tokenbounds.certificates.rescore import arguments_of
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.codecs.decode import read_message
from tokenbounds.codecs.frame import encode
from tokenbounds.corpus.sampling import context_of
from tokenbounds.corpus.store import CorpusIndex
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, write_json
from tokenbounds.models.registry import layout_of
from tokenbounds.scoring.draws import message_draws


def failures(run, sampling="token", rescore=0, retokenize=0):
    """Names and details of the checks that did not hold; "refused" and why for what is no certificate."""
    counts = {"rescored": rescore, "retokenized": retokenize}
    try:
        checks = list(verify_certificate(certificate_path(run, sampling), **counts))
    except InputError as error:
        return {"refused": str(error)}
    return {check.name: check.detail for check in checks if not check.held}


def forge(run, changes, sampling="token", recompute=True):
    """Change fields of a certificate, e.g. {"hypothesis.message_bits": 8}, and compute its bounds anew."""
    path = certificate_path(run, sampling)
    found = read_json(path)
    for key, value in changes.items():
        *parents, last = key.split(".")
        place = found
        for parent in parents:
            place = place[parent]
        place[last] = value
    if recompute:
        paths = [run / item["path"] for item in found["records"]]
        index = CorpusIndex((run / found["corpus"]["index"]["path"]).parent)
        message_path, context = run / found["hypothesis"]["message"]["path"], context_of(found["sampling"])
        beacon = found["sampling"]["beacon"]
        draws, key = message_draws(message_path, index, context, found["n"], beacon)
        message = read_message(message_path)
        records = records_of(paths, draws, message, context, index)
        found["metrics"] = metrics(
            records, found["hypothesis"]["message_bits"], **arguments_of(found), **smoothing(message, context)
        )
        found["config"] = {
            "delta": found["delta"],
            "bounds": found["settings"],
            "choices_bits": found["choices_bits"],
            "sampling": context | {"n": found["n"], "beacon": beacon},
        }
    write_json(path, found)


def flip(path, where=0.5):
    data = bytearray(path.read_bytes())
    data[int(len(data) * where)] ^= 1
    path.write_bytes(data)


def coarsened(path):
    """Code the model of the message at `path` again, with two levels: fewer bytes, another hypothesis."""
    message = read_message(path)
    return encode(
        message.tensors,
        message.config,
        codec={"kind": "levels", "levels": 2},
        layout=lambda config: layout_of(config["hypothesis"]),
    )
