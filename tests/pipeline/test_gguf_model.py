"""A GGUF file goes through the workflow: model, tokenizer and end of text from it, to certificates that
verify."""

import json

from support.damage import refused
from support.gguf_files import EOS, TOKENS, write_gguf

ROWS = [
    {"label": codec, "model": "tiny", "codec": codec, "corpus": "own"} for codec in ("gzip", "sequential3")
]
TABLE = "results/test/tables/table2.md"


def test_a_gguf_file(copy):
    path = copy.folder / "resources/tiny.gguf"
    write_gguf(path)
    (copy.folder / "resources/texts").mkdir()
    for number in range(40):
        text = f"the theme of text {number} is that there are {number * number} others\n" * 4
        (copy.folder / f"resources/texts/{number}.txt").write_text(text)
    copy.change(
        "corpora.own", {"source": {"files": ["resources/texts/*.txt"]}, "tokenizer": {"model": "tiny"}}
    )
    copy.change("models.tiny", {"family": "gguf", "corpus": "own", "path": "resources/tiny.gguf"})
    copy.change("codecs.gzip", {"kind": "zip", "tool": "gzip"})
    copy.change(
        "codecs.sequential3", {"kind": "sequential", "bits": 3.0, "tokens": 512, "gradient_tokens": 512}
    )
    copy.change("tables.table2.rows", ROWS)

    # Random weights are no language model, and the sanity check says so before anything is scored.
    line = r"error in rule score: tiny\.\w+: [\d.]+ bits per token .*; expected at most 2\.68, a third of .*"
    refused(copy, line, arguments=(TABLE,))
    copy.change("models.tiny.sanity_limit", 20.0)
    copy.change("models.tiny.sanity_damage", 2.0)
    copy.launch(TABLE)
    info = json.loads((copy.results / "tokens/own/tokenizer/info.json").read_text())
    assert (info["kind"], info["eot"], info["eot_id"], info["vocab_size"]) == (
        "model",
        "<end>",
        EOS,
        len(TOKENS),
    )
    check = json.loads((copy.results / "sanity_checks/tiny.sequential3.json").read_text())
    assert check["limit_is"].startswith("2 above the undamaged model's") and not check["bad"]
    for codec, family in (("gzip", "gguf"), ("sequential3", "transformers")):
        name = f"results/test/bounds/tiny.{codec}.own.token.json"
        hypothesis = json.loads((copy.folder / name).read_text())["hypothesis"]
        assert (hypothesis["config"]["family"], hypothesis["config"]["start_token"]) == (family, "always")
        assert "all checks held" in copy.run("-m", "tokenbounds.cli", "verify", "--rescore", "5", name)
    # Another file under the same name makes everything stale that was made from it.
    write_gguf(path, seed=1, tokens=[*TOKENS[:-2], "the", "th"])
    planned = {job.partition(" ")[0] for job in copy.planned()}
    assert {"tokenizer", "pretrained", "compress", "message", "score", "bound"} <= planned
