"""How a published model is read: its loss against the library's own reading of the same file, and with each
start token.

    .venv/bin/python examples/real_model.py resources/real
    .venv/bin/python benchmarks/real_model.py resources/real

Our loss is that of the pipeline: contexts of drawn documents, batches, padding. The library's is computed
token by token, each from a forward pass of its own over the same context.
"""

import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from tokenbounds.corpus.contexts import ContextRule, document_items
from tokenbounds.corpus.text_tokenizers import open_tokenizer
from tokenbounds.io.gguf import read_facts, read_tokenizer
from tokenbounds.models.published import read_published
from tokenbounds.scoring.score import score_items

TOKENS, LENGTH = 2000, 256
ARITHMETIC = {"dtype": "float32", "multiple": 64, "batch_tokens": 4096}


class Documents:
    """Documents in memory with the interface of a `tokenbounds.corpus.store.TokenStore`."""

    def __init__(self, documents):
        self.ids = np.concatenate(documents).astype(np.int64)
        self.ends = np.cumsum([len(ids) for ids in documents])

    def tokens(self, start, stop):
        """Return the ids from `start` up to `stop`."""
        return self.ids[start:stop]

    def start_of(self, documents):
        """Return the first position of each document."""
        return np.concatenate([[0], self.ends[:-1]])[documents]

    def document_start(self, positions):
        """Return the first position of the document of each position."""
        return self.start_of(np.searchsorted(self.ends, positions, side="right"))


def losses(model, store, start_token, start_id):
    """Compute the bits of every token of the documents, in order."""
    rule = ContextRule(LENGTH, start_token, start_id)
    items = list(document_items(store, np.arange(len(store.ends)), rule))
    scored = score_items(model, items, arithmetic=ARITHMETIC, name="scored", progress=True)
    return -np.concatenate([log2_q for log2_q, *_ in scored])


def main():
    """Print both comparisons."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    (path,) = folder.glob("*.gguf")
    (texts,) = folder.glob("*.jsonl")
    torch.set_num_threads(2)
    facts, file = read_facts(path), folder / "tokenizer.json"
    read_tokenizer(path, facts).save(str(file))
    tokenizer = open_tokenizer(file, facts.tokens[facts.eos_id])
    rng = np.random.default_rng(5)
    rows = texts.read_text(encoding="utf-8").splitlines()
    chosen = [json.loads(rows[number])["text"] for number in rng.integers(0, len(rows), size=40)]
    documents = [np.append(ids, facts.eos_id)[:LENGTH] for ids in tokenizer.encode_batch(chosen)]
    store = Documents(documents)

    model, config = read_published(path, {}, tokenizer)
    ours = losses(model, store, config["start_token"], config.get("start_id", facts.eos_id))
    from transformers import AutoModelForCausalLM

    library = AutoModelForCausalLM.from_pretrained(folder, gguf_file=path.name, dtype=torch.float32).eval()
    theirs = []
    with torch.no_grad():
        for position in tqdm(range(TOKENS), desc="token by token", unit="token"):
            start = int(store.document_start(np.array([position]))[0])
            before = store.tokens(start, position).tolist() or [config.get("start_id", facts.eos_id)]
            logits = library(torch.tensor([before])).logits[0, -1, : tokenizer.vocab_size].double()
            theirs.append(-float(torch.log_softmax(logits, -1)[store.ids[position]]) / math.log(2))
    apart = np.abs(ours[:TOKENS] - theirs)
    print(
        f"bits per token of {TOKENS} tokens: ours {ours[:TOKENS].mean():.6f}, library {np.mean(theirs):.6f}"
    )
    print(f"difference of a token: at most {apart.max():.2e}, mean {apart.mean():.2e}")
    for name, token in (("BOS", facts.bos_id), ("EOS", facts.eos_id), ("EOT of pretraining", 0)):
        print(f"{name} before every document: {losses(model, store, 'always', token).mean():.4f}")
    print(f"no start token: {losses(model, store, 'first', facts.eos_id).mean():.4f}")
    print(f"default: {config['start_token']}, start_id {config.get('start_id')}")


if __name__ == "__main__":
    main()
