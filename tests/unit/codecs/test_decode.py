"""Hypotheses with structure, subspace and smoothing head: message, decoding, scoring, certificate."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.messages import contexts_of
from support.runs import (
    ARCHITECTURE,
    ARITHMETIC,
    CONFIG,
    EOT,
    SETTINGS,
    VOCAB,
    certificate_path,
    context_of,
    make,
    write_run,
)
from support.stores import random_documents, write_store

from tokenbounds import bounds
from tokenbounds.certificates.files import read_certificate, write_certificate
from tokenbounds.certificates.verify import verify_certificate
from tokenbounds.codecs import frame as message
from tokenbounds.codecs.decode import (
    decode_message,
    encode_model,
    model_of,
    read_message,
    tensors_of,
    with_head,
    write_message,
)
from tokenbounds.codecs.header import read_header
from tokenbounds.codecs.hypotheses import canonical_hypothesis
from tokenbounds.config.schema import Bounds, Sampling, slice_of
from tokenbounds.corpus.contexts import ContextRule, document_items, token_items
from tokenbounds.corpus.sampling import draw
from tokenbounds.corpus.store import CorpusIndex, TokenStore
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json, sha256_file, write_json
from tokenbounds.models.folders import load_config, load_model, save_model
from tokenbounds.models.registry import build_model, layout_of, new_model
from tokenbounds.models.smoothing_head import AlphaHead
from tokenbounds.scoring.draws import message_draws
from tokenbounds.scoring.records import read_records
from tokenbounds.scoring.score import largest_difference, score_items
from tokenbounds.smoothing.from_message import head_of_message

SCHEMES = {
    "token": Sampling(mode="token", n=40, context_length=16),
    "documents": Sampling(mode="document", n=30, context_length=12),
}
BIASED = {**CONFIG, "architecture": {**ARCHITECTURE, "bias": True}}
LORA = {"kind": "lora", "rank": 2, "vocab_multiple": 16}
STRUCTURES = {
    "lora": {"structure": LORA},
    "attention": {"structure": {**LORA, "layers": "attention", "train_biases": False, "train_norms": False}},
    "kronecker": {"structure": {"kind": "kronecker", "out_factor": 4, "in_factor": 2}},
    "monarch": {"structure": {"kind": "monarch", "blocks": 4, "train_norms": False}},
    "learned": {
        "structure": {"kind": "monarch", "blocks": 2},
        "architecture": {**BIASED["architecture"], "positions": "learned"},
    },
    "subspace": {"subspace": {"dimension": 30}},
    "sublora": {"structure": LORA, "subspace": {"dimension": 30}},
    "kronecker in a subspace": {
        "structure": {"kind": "kronecker", "out_factor": 2, "in_factor": 2},
        "subspace": {"dimension": 21},
    },
}
PINNED = {
    "lora": 1106127682,
    "attention": 953220968,
    "kronecker": 0,
    "monarch": 3559608517,
    "learned": 2424367854,
    "subspace": 716153754,
    "sublora": 1345158225,
    "kronecker in a subspace": 2154983933,
}
CONTEXTS = contexts_of(("token", 16))


def made(tmp_path, options, seed=11):
    """A model folder whose trainables are random, and its configuration."""
    model, config = new_model({**BIASED, **options}, seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += 0.05 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(len(name))
            )
    save_model(tmp_path, model, config, {})
    return model, config


def head_for(width, value=0.3, low=0.01, high=0.9):
    """A head that depends on state and entropy."""
    head = AlphaHead(width, low, high)
    with torch.no_grad():
        head.weight.copy_((value * torch.linspace(-1, 1, width + 1)).half().float())
        head.bias.fill_(-1.5)
    return head


@pytest.mark.parametrize("options", STRUCTURES.values(), ids=STRUCTURES)
def test_message_holds_the_trainables_only_and_decodes_to_the_same_model(tmp_path, options):
    model, config = made(tmp_path, options)
    data = encode_model(tmp_path, {"kind": "levels", "levels": 9}, CONTEXTS)
    decoded = decode_message(data)
    assert (
        [(name, value.shape) for name, value in decoded.tensors.items()]
        == model.layout()
        == layout_of(config)
    )
    assert set(tensors_of(model)) == {name for name, _ in model.layout()}
    first, second = model_of(decoded), model_of(decode_message(data))
    quantized = build_model(config)
    with torch.no_grad():
        for name, parameter in quantized.named_parameters():
            parameter.copy_(torch.from_numpy(decoded.tensors[name]))
    quantized.eval()
    ids = torch.randint(0, VOCAB, (3, 16), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        logits = [each.head(each.hidden(ids)) for each in (first, second, quantized)]
    assert logits[0].shape == (3, 16, VOCAB)
    assert all(torch.equal(logits[0], other) for other in logits[1:])
    # the same bytes from the same model, whatever was drawn in between
    torch.manual_seed(5)
    assert encode_model(tmp_path, {"kind": "levels", "levels": 9}, CONTEXTS) == data


@pytest.mark.parametrize("options", STRUCTURES.values(), ids=STRUCTURES)
def test_gradients_reach_every_trainable(options):
    model, _ = new_model({**BIASED, **options}, 3)
    ids = torch.randint(0, VOCAB, (4, 17), generator=torch.Generator().manual_seed(1))
    model.train()(ids[:, :-1], ids[:, 1:]).backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad and parameter.grad is not None, name
        # LoRA starts with b = 0, so that nothing reaches a at first
        assert parameter.grad.any() or name.endswith(".a"), name


def test_another_seed_draws_another_frozen_part(tmp_path):
    options = {"structure": LORA, "subspace": {"dimension": 30}}
    (_, one), (_, two) = made(tmp_path / "one", options, 1), made(tmp_path / "two", options, 2)
    assert one["init"]["check"] != two["init"]["check"]
    two["init"]["seed"] = one["init"]["seed"]
    with pytest.raises(
        InputError, match=r"frozen weights and projection drawn here .* are not those of the model"
    ):
        build_model(two, "model.json")


def test_draws_do_not_depend_on_the_platform(tmp_path):
    """Numbers that messages leave out: a change of these numbers makes every message of such a model
    unreadable."""
    checks = {
        name: new_model({**BIASED, **options}, 11)[1]["init"]["check"] for name, options in STRUCTURES.items()
    }
    assert checks == PINNED


def test_checkpoint_of_another_structure(tmp_path):
    made(tmp_path, STRUCTURES["monarch"])
    config = read_json(tmp_path / "config.json")
    config["structure"] = {"kind": "monarch", "blocks": 2, "train_norms": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=r"config.json: the frozen weights|tensor .* has shape|tensor .* is missing"
    ):
        load_model(tmp_path)
    config["structure"] = {"kind": "kronecker", "out_factor": 4, "in_factor": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"expected exactly the \d+ tensors|are not those of the model"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": {**LORA, "rank": 9}}, "structure.rank is 9, expected at most 8"),
        ({"structure": {"kind": "monarch", "blocks": 3}}, "structure.blocks is 3, expected a divisor of"),
        (
            {"structure": {"kind": "kronecker", "out_factor": 5, "in_factor": 2}},
            "structure.out_factor is 5, expected a divisor of",
        ),
        ({"structure": LORA, "subspace": {"dimension": 10**6}}, "dimension 1000000 for .* parameters"),
    ],
)
def test_structures_that_do_not_fit(options, message):
    with pytest.raises(InputError, match=message) as error:
        new_model({**BIASED, **options}, 1, "model 'm'")
    assert str(error.value).startswith("model 'm': ")


def test_a_structured_model_needs_its_seed():
    with pytest.raises(InputError, match="needs `init`"):
        build_model({**BIASED, "structure": LORA})


def test_head_in_the_message(tmp_path):
    made(tmp_path, STRUCTURES["monarch"])
    data = encode_model(tmp_path, {"kind": "levels", "levels": 9}, CONTEXTS)
    both = with_head(data, head_for(8))
    assert both[: len(data)] == data
    decoded = decode_message(both)
    assert sum(decoded.section_bytes.values()) == len(both)
    assert decoded.section_bytes["alpha head"] == len(both) - len(data)
    assert decoded.config["hypothesis"] == canonical_hypothesis(load_config(tmp_path))
    assert decoded.head.config == {"alpha_head": {"low": 0.01, "high": 0.9}}
    model = model_of(decoded)
    expected = head_for(8)
    assert torch.equal(model.alpha_head.weight, expected.weight) and torch.equal(
        model.alpha_head.bias, expected.bias
    )
    assert model_of(decode_message(data)).alpha_head is None
    with pytest.raises(InputError, match="truncated"):
        decode_message(both[:-1])
    with pytest.raises(InputError, match="3 messages; expected that of a model"):
        decode_message(with_head(both, head_for(8)))
    with pytest.raises(InputError, match=r"smoothing head\)?: "):
        decode_message(data + data)
    with pytest.raises(InputError, match="not a tokenbounds message"):
        decode_message(data + b"x")
    with pytest.raises(InputError, match="smoothing head for states of width 5; expected 8, or 0"):
        model_of(decode_message(with_head(data, head_for(5))))
    assert model_of(decode_message(with_head(data, head_for(0)))).alpha_head(
        torch.zeros(2, 8), torch.ones(2)
    ).shape == (2,)


@pytest.mark.parametrize(
    "config",
    [
        {"alpha_head": {"low": 0.9, "high": 1.0}},  # alpha = 1 everywhere would hide log2 q
        {"alpha_head": {"low": 0.5, "high": 0.1}},
        {"alpha_head": {"low": 0.1, "high": 0.5, "model": "another"}},
        {"alpha_head": {"low": 0.1, "high": 0.5}, "model": "another"},
    ],
)
def test_heads_that_are_none(tmp_path, config):
    made(tmp_path, STRUCTURES["monarch"])
    data = encode_model(tmp_path, {"kind": "levels", "levels": 9}, CONTEXTS)
    tensors = {"weight": np.zeros(9, np.float32), "bias": np.ones(1, np.float32)}
    with pytest.raises(InputError):
        decode_message(data + message.encode(tensors, config, codec={"kind": "float16"}))


def test_a_difference_that_is_no_number_is_not_lost():
    same = (np.array([-1.0]), np.array([0]), np.array([1.0]), np.array([0.5]))
    wrong = (np.array([-1.0]), np.array([0]), np.array([1.0]), np.array([np.nan]))
    assert largest_difference(same, same) == 0
    assert np.isnan(largest_difference(same, wrong))
    moved = (np.array([-1.0]), np.array([0]), np.array([1.0]), np.array([0.4]))
    assert largest_difference(same, moved) == pytest.approx(np.log(0.5 / 0.4))


@pytest.fixture(scope="module")
def with_a_head(tmp_path_factory):
    """A run with a Monarch model in a subspace, a smoothing head, and token and document sampling."""
    config = {**BIASED, "structure": {"kind": "monarch", "blocks": 4}, "subspace": {"dimension": 40}}
    settings = {**SETTINGS, "candidates": 2}
    return write_run(
        tmp_path_factory.mktemp("run"), SCHEMES, config=config, head=head_for(8), settings=settings
    )


def test_records_have_the_heads_weights(with_a_head):
    path = with_a_head / "risk/gpt.levels.text.token"
    records = read_records([path / "00000.parquet", path / "00001.parquet"], head=True)
    decoded = read_message(with_a_head / "messages/gpt.levels.bin")
    model = model_of(decoded)
    store = TokenStore(with_a_head / "tokens/text/train")
    message_path, context = with_a_head / "messages/gpt.levels.bin", context_of(SCHEMES["token"])
    draws, _ = message_draws(message_path, CorpusIndex(store.folder), context, 40)
    items = list(token_items(store, draws["position"], ContextRule(16, "first", EOT)))
    scored = score_items(model, items, arithmetic=ARITHMETIC)
    assert np.allclose(records["alpha"], [scores[3][0] for scores in scored], rtol=1e-5)
    assert np.ptp(records["alpha"]) > 0.01
    assert ((records["alpha"] >= 0.01) & (records["alpha"] <= 0.9)).all()
    with pytest.raises(InputError, match=r"expected draw, position, .*entropy_bits$"):
        read_records([path / "00000.parquet"])


def test_certificate_with_a_head_uses_it(with_a_head):
    certificate = read_certificate(certificate_path(with_a_head, "token"))
    path = with_a_head / "risk/gpt.levels.text.token"
    records = read_records([path / "00000.parquet", path / "00001.parquet"], head=True)
    expected = bounds.betting_bpd(
        records["log2_q"],
        VOCAB,
        certificate["hypothesis"]["message_bits"],
        certificate["m"],
        entropies=records["entropy_bits"],
        alphas=records["alpha"],
        alpha_range=(0.01, 0.9),
        grids=bounds.Grids(alpha=(0.01, 0.1, 0.5)),
        extra_bits=certificate["choices_bits"] | certificate["tokenizer_bits"],
        epsilon_nats=certificate["epsilon_nats"],
        entropy_epsilon_bits=certificate["entropy_epsilon_bits"],
        candidates=2,
    )
    bpd = certificate["metrics"]["bpd"]["bounds"]
    assert bpd["betting"]["value"] == pytest.approx(expected.value, rel=1e-12)
    assert bpd["betting"]["choices"]["alpha_min"] == 0.01 and "alpha" in bpd["azuma_certified"]["choices"]
    assert (
        bpd["betting"]["complexity_terms_bits"]["alpha_grid"] == 0
        and bpd["azuma_certified"]["complexity_terms_bits"]["alpha_grid"] > 1
    )
    assert certificate["hypothesis"]["alpha_head"] == {"low": 0.01, "high": 0.9}
    assert bpd["betting"]["delta2"] == pytest.approx(0.999 * 0.05 / 2)


@pytest.mark.parametrize("sampling", SCHEMES)
def test_certificates_verify(with_a_head, sampling):
    checks = list(verify_certificate(certificate_path(with_a_head, sampling), rescored=10))
    assert all(check.held for check in checks), [check.detail for check in checks if not check.held]
    assert "rescore" in {check.name for check in checks}


def test_a_forged_weight_of_the_head_is_found(with_a_head, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(with_a_head, run)
    forge_column(run, "alpha", lambda values: np.clip(values * 0.9, 0.01, 0.9))
    held = {
        check.name: check.held for check in verify_certificate(certificate_path(run, "token"), rescored=40)
    }
    assert held.pop("rescore") is False
    assert all(held.values())


def forge_column(run, column, change):
    """Change a column of all records, and make hashes and certificate again as if it were true."""
    for part in range(2):
        path = run / f"risk/gpt.levels.text.token/{part:05d}.parquet"
        table = pq.read_table(path)
        forged = pa.array(change(table[column].to_numpy()))
        pq.write_table(table.set_column(table.schema.get_field_index(column), column, forged), path)
        sidecar = read_json(path.with_suffix(".json"))
        write_json(path.with_suffix(".json"), sidecar | {"sha256": sha256_file(path)})
    settings = read_certificate(certificate_path(run, "token"))["settings"]
    write_certificate(certificate_path(run, "token"), make(run, "token", SCHEMES["token"], settings=settings))


def test_forged_scores_under_a_head_are_found(with_a_head, tmp_path):
    """Also where the head's smoothing would hide them from the smoothed probability."""
    run = tmp_path / "run"
    shutil.copytree(with_a_head, run)
    forge_column(run, "log2_q", lambda values: values + 0.01 * (values <= np.sort(values)[3]))
    held = {
        check.name: check.held for check in verify_certificate(certificate_path(run, "token"), rescored=40)
    }
    assert held.pop("rescore") is False and all(held.values())


def test_document_level_certificate(with_a_head):
    certificate = read_certificate(certificate_path(with_a_head, "documents"))
    assert (certificate["m"], certificate["n"]) == (80, 30)
    path = with_a_head / "risk/gpt.levels.text.documents"
    records = read_records([path / "00000.parquet", path / "00001.parquet"], head=True, ragged=True)
    means = [-records["log2_q"][records["draw"] == draw].mean() for draw in range(30)]
    bpd = certificate["metrics"]["bpd"]
    assert bpd["empirical_risk"] == pytest.approx(np.mean(means), rel=1e-12)
    assert bpd["bounds"].keys() == {"azuma", "azuma_certified", "betting"}
    assert bpd["bounds"]["betting"]["delta2"] == pytest.approx(0.999 * 0.05 / (2 * 3))
    assert bpd["bounds"]["betting"]["complexity_terms_bits"]["alpha_grid"] == pytest.approx(np.log2(3))
    # by hand, at the constant smoothing that the formula chose
    alpha = bpd["bounds"]["azuma"]["choices"]["alpha"]
    smoothed = [
        bounds.smoothed_losses(records["log2_q"][records["draw"] == draw], alpha, VOCAB).mean()
        for draw in range(30)
    ]
    assert bpd["bounds"]["azuma"]["empirical_risk"] == pytest.approx(np.mean(smoothed), rel=1e-12)
    top1 = certificate["metrics"]["top1"]
    errors = [(records["rank"][records["draw"] == draw] >= 1).mean() for draw in range(30)]
    assert top1["empirical_risk"] == pytest.approx(np.mean(errors), rel=1e-12)
    assert top1["random_guess"] == pytest.approx(1 - 1 / VOCAB)


def test_documents_are_scored_up_to_their_length(tmp_path):
    store = write_store(tmp_path, random_documents(np.random.default_rng(2), 12), VOCAB, EOT)
    index, mode = CorpusIndex(tmp_path), {"mode": "document", "context_length": 10}
    drawn = draw(index, mode, 8, bytes(32))
    assert drawn["position"].tolist() == [int(store.ends[d - 1]) if d else 0 for d in drawn["document"]]
    for start_token in ("first", "always"):
        items = list(document_items(store, drawn["document"], ContextRule(10, start_token, EOT)))
        for number, document in enumerate(drawn["document"]):
            mine = [item for item in items if item.draw == number]
            begin = int(store.ends[document - 1]) if document else 0
            stop = min(int(store.ends[document]), begin + 10)
            assert (
                np.concatenate([item.targets for item in mine]).tolist() == store.tokens(begin, stop).tolist()
            )
            assert np.concatenate([item.positions for item in mine]).tolist() == list(range(begin, stop))
            assert all(item.ids.size <= 10 for item in mine)
    with pytest.raises(InputError, match="n = 13 draws from 12 documents"):
        draw(index, mode, 13, bytes(32))


def test_training_a_head(with_a_head, tmp_path):
    decoded = (with_a_head / "messages/gpt.levels.bin").read_bytes()
    path = tmp_path / "base.bin"
    write_message(path, bytes(message.split(decoded)[0]))
    options = {
        "name": "gpt.head",
        "codec": {"objective": "betting", "alpha_min": [0.05, 0.2], "alpha_max": 0.9, "tokens": 200},
        "bounds_settings": bounds_section(),
        "delta": 0.05,
        "n": 40,
        "choices_bits": {"sampling scheme": 1.0},
        "seed": 1,
        "scheme": context_of(SCHEMES["token"]),
        "device": "cpu",
    }
    head, history = head_of_message(path, with_a_head / "tokens/text/train", **options)
    again, _ = head_of_message(path, with_a_head / "tokens/text/train", **options)
    assert head.low in (0.05, 0.2) and torch.equal(head.weight, again.weight)
    assert history[0]["step"] == 0
    write_message(tmp_path / "both.bin", with_head(path.read_bytes(), head))
    with pytest.raises(InputError, match="the message has a smoothing head"):
        head_of_message(tmp_path / "both.bin", with_a_head / "tokens/text/train", **options)
    with pytest.raises(InputError, match="expected a sampling of mode token, not document"):
        head_of_message(
            path,
            with_a_head / "tokens/text/train",
            **options | {"scheme": context_of(SCHEMES["documents"])},
        )


def bounds_section():
    return slice_of(Bounds.model_validate(SETTINGS))


def test_a_header_is_that_of_a_model_and_perhaps_of_a_head(tmp_path):
    made(tmp_path, STRUCTURES["monarch"])
    path = tmp_path / "m.bin"
    path.write_bytes(with_head(encode_model(tmp_path, {"kind": "levels"}, CONTEXTS), head_for(8)))
    header, decoded = read_header(path), read_message(path)
    assert (header.config, header.codec) == (decoded.config, decoded.codec)
    assert (header.head.config, header.head.codec) == (decoded.head.config, decoded.head.codec)
