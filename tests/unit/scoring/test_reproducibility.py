"""A prediction depends on its own context, bit for bit, and a model for which it does not is found out."""

import numpy as np
import pytest
import torch
from support.causal_models import KINDS, hypothesis
from support.stores import random_documents, write_store

from tokenbounds.corpus.contexts import ContextRule, document_items, token_items, window_items
from tokenbounds.errors import InputError
from tokenbounds.models.gpt import GPT
from tokenbounds.models.markov import chain_of, count_ngrams, quantize_counts
from tokenbounds.models.precision import cast
from tokenbounds.models.smoothing_head import AlphaHead
from tokenbounds.models.transformers import CausalLM
from tokenbounds.scoring.reproducibility import Reproducibility, reproducibility, with_other_tokens
from tokenbounds.scoring.score import score_items

V, EOT, LONGEST = 64, 0, 32
ARITHMETIC = {"dtype": "float32", "multiple": 16, "batch_tokens": 256}
STRUCTURES = {
    "dense": None,
    "lora": {"kind": "lora", "rank": 2, "dropout": 0},
    "kronecker": {"kind": "kronecker", "out_factor": 2, "in_factor": 2},
    "monarch": {"kind": "monarch", "blocks": 4},
}
FAMILIES = ["llama", "gpt2", "mistral", "gpt_neox"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    documents = random_documents(np.random.default_rng(3), 60, vocab_size=V)
    return write_store(tmp_path_factory.mktemp("store") / "train", documents, V, EOT)


def gpt(kind="dense", width=32):
    shape = {"layers": 2, "heads": 2, "width": width, "context_length": LONGEST, "positions": "rotary"}
    config = {"family": "gpt", "vocab_size": V, "architecture": shape, "start_token": "always", "eot_id": EOT}
    structure = {} if STRUCTURES[kind] is None else {"structure": STRUCTURES[kind]}
    model, config = GPT.create(config | structure, 3)
    if "init" not in config:
        model.initialize(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return model.eval()


def library(kind):
    entries = KINDS[kind] | {"hidden_size": 32, "vocab_size": V, "initializer_range": 0.2}
    return CausalLM.create(hypothesis(entries, vocab_size=V), 3)[0].eval()


def chain(store):
    ngrams, counts = count_ngrams(store.tokens(0, store.m), 2, V, EOT)
    facts = {"vocab_size": V, "eot_id": EOT, "start_token": "always", "floor_bits": 20}
    return chain_of(ngrams, quantize_counts(ngrams, counts), **facts)[0]


def items_of(store, mode, rule=None):
    rule = rule or ContextRule(LONGEST, "first", EOT)
    if mode == "token":
        return list(token_items(store, np.random.default_rng(1).integers(0, store.m, 150), rule))
    if mode == "window":
        return list(window_items(store, range(40), 8, rule))
    return list(document_items(store, range(40), rule))


def checked(model, items, arithmetic=ARITHMETIC, **changes):
    options = {"arithmetic": arithmetic, "seed": 1, "stream": "a", "name": "tiny"} | changes
    return reproducibility(model, items, score_items(model, items, arithmetic=arithmetic), **options)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", [*STRUCTURES, *FAMILIES, "markov"])
def test_every_family_predicts_the_same_bits_beside_other_inputs(store, kind, dtype):
    arithmetic = ARITHMETIC | {"dtype": dtype}
    model = chain(store) if kind == "markov" else gpt(kind) if kind in STRUCTURES else library(kind)
    if kind in STRUCTURES:
        model.alpha_head = AlphaHead(32, 0.01, 0.5)
        with torch.no_grad():
            model.alpha_head.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    model = cast(model, arithmetic)
    for mode in ("token", "window", "document"):
        items = items_of(store, mode)
        found = checked(model, items, arithmetic)
        assert found == Reproducibility(min(64, len(items)), 0.0, 0.0, True, True), mode
        assert found.bitwise


def test_a_model_that_sees_later_tokens_is_refused(store):
    class Both(GPT):
        """Adds what it is told of the token two places further."""

        def hidden(self, ids):
            states = super().hidden(ids)
            later = torch.cat([ids[:, 2:], ids[:, :2]], dim=1)
            return states + 0.05 * self.embedding(later)

    model = Both({"layers": 1, "heads": 1, "width": 32, "context_length": LONGEST}, V)
    model.initialize(3).eval()
    for mode in ("token", "window", "document"):
        with pytest.raises(
            InputError, match=r"tiny: log-probabilities change by .* with the tokens that follow"
        ):
            checked(model, items_of(store, mode))


def test_a_model_that_sees_other_rows_is_refused(store):
    """A scale from all activations of the batch, as in dynamic quantization."""

    class Scaled(GPT):
        def hidden(self, ids):
            states = super().hidden(ids)
            scale = states.abs().max() / 127
            return (states / scale).round() * scale

    model = Scaled({"layers": 1, "heads": 1, "width": 32, "context_length": LONGEST}, V)
    model.initialize(3).eval()
    with pytest.raises(
        InputError, match=r"tiny: log-probabilities change by .* with other inputs of a batch"
    ):
        checked(model, items_of(store, "token"))


@pytest.mark.parametrize(("size", "refused"), [(1e-5, False), (1e-2, True)])
def test_a_difference_of_rounding_is_measured(store, size, refused):
    class Noisy(GPT):
        """Adds what depends on the row, as a kernel may that treats rows differently."""

        def head(self, hidden):
            noise = size * (torch.arange(len(hidden)) % 7 / 7)[:, None] * torch.arange(V) / V
            return super().head(hidden) + noise

    model = Noisy({"layers": 1, "heads": 1, "width": 32, "context_length": LONGEST}, V)
    model.initialize(3).eval()
    if refused:
        with pytest.raises(InputError, match="with other inputs of a batch"):
            checked(model, items_of(store, "token"))
        return
    found = checked(model, items_of(store, "token"))
    assert 0 < found.epsilon_nats <= size and 0 < found.entropy_epsilon_bits <= 10 * size
    assert not found.bitwise
    assert found == checked(model, items_of(store, "token"))  # seeded


def test_records_that_the_model_did_not_make_are_found(store):
    model, items = gpt(), items_of(store, "token")
    scored = score_items(model, items, arithmetic=ARITHMETIC)
    options = {"arithmetic": ARITHMETIC, "seed": 1, "stream": "a"}
    shifted = [(log2_q + 1e-4, rank, entropy) for log2_q, rank, entropy in scored]
    assert reproducibility(model, items, shifted, **options).epsilon_nats == pytest.approx(1e-4 * np.log(2))
    shifted = [(log2_q, rank, entropy + 1e-4) for log2_q, rank, entropy in scored]
    assert reproducibility(model, items, shifted, **options).entropy_epsilon_bits == pytest.approx(1e-4)
    shifted = [(log2_q, rank + 1, entropy) for log2_q, rank, entropy in scored]
    found = reproducibility(model, items, shifted, **options)
    assert not found.ranks_equal and not found.bitwise
    with pytest.raises(InputError, match="change by nan nats"):
        reproducibility(model, items, [(np.nan * log2_q, rank, h) for log2_q, rank, h in scored], **options)


def test_other_tokens_replace_all_that_follows(store):
    item = items_of(store, "window")[1]
    rng = np.random.default_rng(0)
    assert item.targets.size > 2
    changed = with_other_tokens(item, 2, 40, np.array([77]), rng)
    seen = item.first + 2  # the second prediction has seen its own input
    assert (changed.ids[:seen] == item.ids[:seen]).all() and (changed.ids[seen:] == 77).all()
    assert changed.ids.size == 40 and (changed.targets == item.targets).all()
    whole = with_other_tokens(item, item.targets.size, 40, np.array([77]), rng)
    assert (whole.ids[: item.ids.size] == item.ids).all() and (whole.ids[item.ids.size :] == 77).all()
