"""Certificates that are forged, files that are damaged, and the checks that find it."""

from support.runs import certificate_path
from tokenbounds.certificates.evaluate import metrics
from tokenbounds.certificates.make import records_of
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.codecs.decode import read_message
from tokenbounds.codecs.frame import encode
from tokenbounds.corpus.sampling import read_positions
from tokenbounds.corpus.store import CorpusIndex
from tokenbounds.io.files import read_json, write_json
from tokenbounds.models.registry import layout_of


def failures(run, sampling="token", rescore=0):
    """Names and details of the checks that did not hold."""
    return {
        check.name: check.detail
        for check in verify_certificate(certificate_path(run, sampling), rescore)
        if not check.held
    }


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
        message_bits = found["hypothesis"]["message_bits"]
        paths = [run / item["path"] for item in found["records"]]
        index = CorpusIndex((run / found["corpus"]["index"]["path"]).parent)
        draws = read_positions(run / found["sampling"]["draws"]["path"])
        message = read_message(run / found["hypothesis"]["message"]["path"])
        records = records_of(paths, draws, message, found["sampling"]["name"], index)
        facts = {
            key: found[key]
            for key in ("delta", "m", "n", "vocab_size", "choices_bits", "epsilon_nats", "settings")
        }
        found["metrics"] = metrics(records, message_bits, **facts)
        found["config"] = {
            "delta": found["delta"],
            "bounds": found["settings"],
            "choices_bits": found["choices_bits"],
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
