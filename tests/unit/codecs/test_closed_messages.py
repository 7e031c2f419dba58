"""Messages hold what they must and nothing else, in one way only; anything more is refused when read."""

import copy
import dataclasses
import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.lattice import random_result
from support.messages import check_model_refused, contexts_of, forge, repaired

from tokenbounds.codecs import frame
from tokenbounds.codecs.contexts import context_rule
from tokenbounds.codecs.decode import decode_message, with_head
from tokenbounds.codecs.header import Header, complexity_bits, read_header
from tokenbounds.errors import InputError
from tokenbounds.models.markov import count_ngrams, quantize_counts
from tokenbounds.models.registry import layout_of, new_model
from tokenbounds.models.smoothing_head import AlphaHead

GPT = {
    "family": "gpt",
    "architecture": {
        **{"layers": 1, "heads": 2, "width": 16, "context_length": 16},
        **{"positions": "rotary", "bias": False},
    },
    **{"vocab_size": 24, "start_token": "first", "eot_id": 0},
}
SCHEMES = contexts_of(("token", 16), ("window", 16, 8), ("document", 12))
VALUES = [0.5, -0.25, 1.0, 0.125]


def gpt(hypothesis=GPT, contexts=SCHEMES, codec=None, seed=0, **extra):
    """A message of a GPT whose weights take few values."""
    rng, config = np.random.default_rng(seed), {"hypothesis": hypothesis, "contexts": contexts, **extra}
    layout = layout_of(GPT)
    tensors = {name: rng.choice(VALUES, shape).astype(np.float32) for name, shape in layout}
    codec = codec or {"kind": "levels", "levels": 4, "method": "kmeans"}
    if codec["kind"] == "lattice":
        for name, shape in layout:
            if "mlp" in name and len(shape) == 2:
                tensors[name] = dataclasses.replace(random_result(*shape, 2), name=name)
    return frame.encode(tensors, config, codec=codec, layout=layout)


def lora():
    model, config = new_model(
        {**GPT, "structure": {"kind": "lora", "rank": 1, "vocab_multiple": 8}, "subspace": {"dimension": 9}},
        4,
    )
    return model, config


def markov(**codec):
    ids = np.append(np.random.default_rng(1).integers(0, 6, 150), 0)
    ngrams, counts = count_ngrams(ids, 2, 6, 0)
    tensors = {"ngrams": ngrams, "counts": quantize_counts(ngrams, counts)}
    hypothesis = {"family": "markov", "order": 2, "ngrams": len(ngrams), "floor_bits": 20}
    hypothesis |= {"vocab_size": 6, "start_token": "first", "eot_id": 0}
    options = {"kind": "counts", "vocab_size": 6, "eot_id": 0, **codec}
    config = {"hypothesis": hypothesis, "contexts": SCHEMES}
    return frame.encode(tensors, config, codec=options, layout=layout_of(hypothesis))


def head(width=16, low=0.01, high=0.9):
    module = AlphaHead(width, low, high)
    module.weight.data += 0.5
    return module


# ---------------------------------------------------------------- the config of a model's message


def changed(path, value):
    """Contexts with another value, or without the key if it is None."""
    contexts = copy.deepcopy(SCHEMES)
    *parents, last = path
    place = functools.reduce(lambda part, key: part[key], parents, contexts)
    if value is None:
        del place[last]
    else:
        place[last] = value
    return contexts


TOKEN, WINDOW = SCHEMES["schemes"][1:]


@pytest.mark.parametrize(
    ("contexts", "match"),
    [
        (
            changed(["note"], 1),
            "contexts holds arithmetic, note, schemes; expected exactly arithmetic, schemes",
        ),
        (changed(["arithmetic"], None), "contexts holds schemes; expected exactly"),
        (changed(["arithmetic", "dtype"], "float64"), "contexts.arithmetic: dtype"),
        (changed(["arithmetic", "dtype"], None), "contexts.arithmetic.dtype is absent; expected .float32."),
        (changed(["arithmetic", "multiple"], 8.0), r"arithmetic.multiple is 8\.0; expected 8"),
        (changed(["arithmetic", "multiple"], "8"), "arithmetic.multiple is .8.; expected 8"),
        (changed(["arithmetic", "multiple"], True), "arithmetic.multiple is true; expected 1"),
        (changed(["arithmetic", "multiple"], 0), "arithmetic: multiple"),
        (
            changed(["arithmetic", "batch_tokens"], 2**40),
            "batch_tokens.*1099511627776",
        ),
        (changed(["arithmetic", "name"], "mine"), "arithmetic: name: Extra inputs"),
        (changed(["schemes"], []), r"schemes is \[\]; expected a list of at least one"),
        (changed(["schemes"], {"token": TOKEN}), "schemes is .*; expected a list"),
        (changed(["schemes"], [TOKEN, TOKEN]), "schemes are .*; expected distinct ones, sorted"),
        (changed(["schemes"], [WINDOW, TOKEN]), "schemes are .*; expected distinct ones, sorted"),
        (changed(["schemes", 0, "mode"], "sequence"), r"schemes\[0\] is .*; expected a mode, one of token"),
        (changed(["schemes", 0, "mode"], ["token"]), r"schemes\[0\] is .*; expected a mode"),
        (changed(["schemes", 0], "token"), r"schemes\[0\] is .token.; expected a mode"),
        (
            changed(["schemes", 1, "window"], 8),
            r"schemes\[1\] holds context_length, mode, window; expected exactly",
        ),
        (
            changed(["schemes", 2, "window"], None),
            r"schemes\[2\] holds context_length, mode; expected exactly",
        ),
        (changed(["schemes", 2, "window"], 17), "window 17 is longer than context_length 16"),
        (changed(["schemes", 2, "window"], 0), r"schemes\[2\].window is 0; expected a whole number from 1"),
        (
            changed(["schemes", 1, "context_length"], 16.0),
            r"context_length is 16\.0; expected a whole number",
        ),
        (changed(["schemes", 1, "context_length"], True), "context_length is true; expected a whole number"),
        (changed(["schemes", 1, "context_length"], -1), "context_length is -1; expected a whole number"),
        ({"token": TOKEN}, "contexts holds token; expected exactly arithmetic, schemes"),
        ([], r"contexts is \[\]; expected keys"),
    ],
)
def test_contexts(contexts, match, tmp_path):
    check_model_refused(gpt(contexts=contexts), match, tmp_path)


@pytest.mark.parametrize(
    ("extra", "match"),
    [
        (
            {"compressed_bytes": -1000},
            "the config holds compressed_bytes, contexts, hypothesis; expected exactly",
        ),
        (
            {"files": []},
            "the config holds contexts, files, hypothesis; expected exactly contexts, hypothesis",
        ),
        ({"note": "lucky number 7"}, "the config holds contexts, hypothesis, note; expected exactly"),
        ({"alpha_head": {"low": 0.1, "high": 0.9}}, "the config holds alpha_head, contexts"),
    ],
)
def test_other_keys_of_the_config(extra, match, tmp_path):
    check_model_refused(gpt(**extra), match, tmp_path)


def test_compressed_bytes_are_a_whole_number_of_published_files_only(tmp_path):
    path = tmp_path / "m.bin"
    path.write_bytes(gpt())
    message = read_header(path)
    assert complexity_bits(path, message) == 8 * path.stat().st_size
    lowered = Header({**message.config, "compressed_bytes": -1000}, message.codec)
    with pytest.raises(InputError, match="compressed_bytes is there; expected it for codec 'zip' only"):
        complexity_bits(path, lowered)
    for value in (-1000, 0, 0.5, True, "1"):
        with pytest.raises(InputError, match=r"compressed_bytes is .*; expected a whole number from 1"):
            complexity_bits(path, Header({**message.config, "compressed_bytes": value}, {"kind": "zip"}))
    with pytest.raises(InputError, match="compressed_bytes is missing"):
        complexity_bits(path, Header(message.config, {"kind": "zip"}))


# ---------------------------------------------------------------- the hypothesis


@pytest.mark.parametrize(
    ("hypothesis", "match", "header"),
    [
        ({**GPT, "note": "x"}, "note: Extra inputs are not permitted", False),
        ({**GPT, "vocab_size": 24.0}, r"hypothesis.vocab_size is 24\.0; expected 24", True),
        ({**GPT, "vocab_size": "24"}, "hypothesis.vocab_size is .24.; expected 24", True),
        ({**GPT, "eot_id": False}, "hypothesis.eot_id is false; expected 0", True),
        ({**GPT, "family": "llama"}, "family .llama. is not known", True),
        ({"family": "gpt"}, "vocab_size: Field required", True),
        ("gpt", "hypothesis is .gpt.; expected keys with values", True),
        ({**GPT, "last_tokens": None}, "hypothesis.last_tokens is null; expected no such key", False),
        ({**GPT, "last_tokens": 16}, "hypothesis.last_tokens is 16; expected no such key", False),
        ({**GPT, "init": {"seed": 7, "check": 0}}, "hypothesis.init is .*; expected no such key", False),
        (
            {**GPT, "architecture": GPT["architecture"] | {"dropout": 0.125}},
            'hypothesis.architecture is .*"dropout":0.125.*; expected',
            False,
        ),
        (
            {**GPT, "architecture": GPT["architecture"] | {"heads": 2.0}},
            "hypothesis.architecture is .*; expected",
            False,
        ),
        (
            {**GPT, "architecture": {k: v for k, v in GPT["architecture"].items() if k != "bias"}},
            "hypothesis.architecture is .*; expected",
            False,
        ),
    ],
)
def test_a_hypothesis_is_stated_in_one_way(hypothesis, match, header, tmp_path):
    check_model_refused(gpt(hypothesis), match, tmp_path, header)


def test_a_drawn_model_states_no_dropout(tmp_path):
    model, config = lora()
    tensors = {name: np.full(shape, 0.5, np.float32) for name, shape in model.layout()}

    def coded(hypothesis):
        described = {"hypothesis": hypothesis, "contexts": SCHEMES}
        return frame.encode(tensors, described, codec={"kind": "float16"}, layout=model.layout())

    check_model_refused(
        coded(config), "hypothesis.architecture|hypothesis.structure is", tmp_path, header=False
    )
    structure = {
        **config["structure"],
        "layers": "all",
        "scale": 32.0,
        "train_biases": True,
        "train_norms": True,
    }
    assert decode_message(coded({**config, "structure": structure})).config["hypothesis"]["init"]["seed"] == 4
    check_model_refused(
        coded({**config, "structure": {**structure, "dropout": 0.1}}),
        "hypothesis.structure is .*dropout",
        tmp_path,
        header=False,
    )


def test_options_that_are_the_hypothesis(tmp_path):
    reader = frame._checked(markov(), "m")
    config, codec, layout = frame._read_header(reader)
    body = bytes(reader.data[reader.position : reader.end])
    header = {"codec": {**codec, "vocab_size": 7}, "config": config, "layout": layout}
    check_model_refused(
        forge(header, body),
        "vocab_size of the codec is 7; expected the hypothesis' 6",
        tmp_path,
        header=False,
    )


# ---------------------------------------------------------------- smoothing heads and trailing messages


def coded_head(tensors=None, config=None, codec=None):
    tensors = tensors or {"weight": np.ones(17, np.float32), "bias": np.zeros(1, np.float32)}
    config = config or {"alpha_head": {"low": 0.01, "high": 0.9}}
    return frame.encode(tensors, config, codec=codec or {"kind": "float16"})


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        (
            {"config": {"alpha_head": {"low": 0.01, "high": 0.9, "secret": 3}}},
            "alpha_head holds high, low, secret",
        ),
        (
            {"config": {"alpha_head": {"low": 0.01, "high": 0.9}, "secret": 3}},
            "config holds alpha_head, secret",
        ),
        ({"config": {"alpha_head": {"low": 0.01}}}, "alpha_head holds low; expected exactly high, low"),
        ({"config": {"alpha_head": [0.01, 0.9]}}, "alpha_head is .*; expected keys with values"),
        *(
            ({"config": {"alpha_head": {"low": low, "high": high}}}, "expected numbers 0 < low < high < 1")
            for low, high in (
                (0.9, 0.1),
                (0.0, 0.9),
                (0.1, 1.0),
                (0.5, 0.5),
                (0, 0.9),
                (True, 0.9),
                ("0.1", 0.9),
            )
        ),
        (
            {
                "tensors": {
                    name: np.ones(n, np.float32) for name, n in (("weight", 17), ("bias", 1), ("more", 1))
                }
            },
            "a smoothing head of tensors .*more",
        ),
        (
            {"tensors": {"bias": np.ones(1, np.float32), "weight": np.ones(17, np.float32)}},
            "a smoothing head of tensors .*; expected weight",
        ),
        (
            {"tensors": {"weight": np.ones((17, 1), np.float32), "bias": np.ones(1, np.float32)}},
            "a smoothing head of tensors",
        ),
        (
            {"tensors": {"weight": np.ones(17, np.float32), "bias": np.ones(2, np.float32)}},
            "a smoothing head of tensors",
        ),
        ({"codec": {"kind": "levels"}}, "a smoothing head of codec .*levels.*; expected float16"),
    ],
)
def test_heads_with_anything_more(parts, match, tmp_path):
    check_model_refused(gpt() + coded_head(**parts), rf"m\.bin \(smoothing head\).*{match}", tmp_path)


def test_what_follows_a_model_is_its_head_alone(tmp_path):
    assert decode_message(gpt() + coded_head()).head.config == {"alpha_head": {"low": 0.01, "high": 0.9}}
    check_model_refused(
        gpt() + gpt(seed=1), r"smoothing head\): the config holds contexts, hypothesis", tmp_path
    )
    check_model_refused(gpt() + coded_head() + coded_head(), "3 messages; expected that of a model", tmp_path)
    check_model_refused(
        coded_head(), "the config holds alpha_head; expected exactly contexts, hypothesis", tmp_path
    )
    check_model_refused(
        with_head(markov(), head()), "a smoothing head follows a message of codec 'counts'", tmp_path
    )


# ---------------------------------------------------------------- canonical messages


@functools.cache
def messages():
    """A small message of each codec, and what it says."""
    model, config = lora()
    structure = {
        **config["structure"],
        "layers": "all",
        "scale": 32.0,
        "train_biases": True,
        "train_norms": True,
    }
    described = {"hypothesis": {**config, "structure": structure}, "contexts": SCHEMES}
    weights = {
        name: np.linspace(-1, 1, int(np.prod(shape)), dtype=np.float32) for name, shape in model.layout()
    }
    written = {
        "levels": gpt(),
        "shared": gpt(codec={"kind": "levels", "levels": 4, "codebook": "shared", "method": "kmeans"}),
        "sequential": gpt(codec={"kind": "sequential"}),
        "lattice": gpt(codec={"kind": "lattice", "seed": 0}),
        "float16": gpt(codec={"kind": "float16"}),
        "counts": markov(),
        "subspace": frame.encode(weights, described, codec={"kind": "levels"}, layout=model.layout()),
        "head": with_head(gpt(), head()),
    }
    return {name: (data, content(decode_message(data))) for name, data in written.items()}


def content(message):
    """All that a message says, to compare: numbers by their bits."""
    tensors = [(name, value.shape, value.tobytes()) for name, value in message.tensors.items()]
    inner = content(message.head) if message.head else None
    return repr((message.config, message.codec, tensors, inner))


@pytest.mark.parametrize(
    "kind", ["levels", "shared", "sequential", "lattice", "float16", "counts", "subspace", "head"]
)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_no_other_bytes_say_the_same(kind, data):
    """Any byte of the model's frame is changed, and the checksum made right: refused, or another model."""
    message, said = messages()[kind]
    first = bytes(frame.split(message)[0])
    position = data.draw(st.integers(0, len(first) - 5))
    value = data.draw(st.integers(0, 255).filter(lambda value: value != first[position]))
    try:
        changed = content(decode_message(repaired(first, position, value) + message[len(first) :]))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        assert changed != said


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("levels", {"codebook": "shared"}),
        ("shared", {"codebook": "tensor"}),
        ("subspace", {"codebook": "shared"}),
        ("lattice", {"bits": 3}),
        ("lattice", {"bits": 4}),
        ("lattice", {"seed": 1}),
        ("lattice", {"codebook": "shared"}),
        ("lattice", {"levels": 25}),
        ("levels", {"levels": 11}),
        ("levels", {"method": "kmeans"}),
        ("float16", {"kind": "levels", "codebook": "tensor"}),
        ("counts", {"eot_id": 1}),
        ("counts", {"vocab_size": 7}),
    ],
)
def test_options_that_did_not_write_the_body(kind, options):
    """Refused, or (another seed of signs) another model."""
    data, said = messages()[kind]
    reader = frame._checked(data, "m")
    config, codec, layout = frame._read_header(reader)
    body = bytes(reader.data[reader.position : reader.end])
    forged = forge({"codec": {**codec, **options}, "config": config, "layout": layout}, body)
    assert forge({"codec": codec, "config": config, "layout": layout}, body) == data
    try:
        assert content(decode_message(forged)).partition("[")[2] != said.partition("[")[2]
        assert options == {"seed": 1}
    except InputError:
        assert options != {"seed": 1}


# ---------------------------------------------------------------- contexts of a scheme


def test_the_entry_is_one_of_the_message(tmp_path):
    (tmp_path / "m.bin").write_bytes(gpt())
    for message in (read_header(tmp_path / "m.bin"), decode_message(gpt())):
        assert context_rule(message, {"mode": "document", "context_length": 12}).length == 12
        assert context_rule(message, {"context_length": 16, "mode": "token"}).length == 16
        for entry, match in (
            (
                {"mode": "token", "context_length": 8},
                "m: the message knows the sampling schemes .*; expected",
            ),
            ({"mode": "token", "context_length": 16.0}, "m: the sampling scheme.context_length is 16.0"),
            ({"mode": "token", "context_length": 16, "window": 8}, "m: the sampling scheme holds"),
            ("token", "m: the sampling scheme is .token.; expected a mode"),
        ):
            with pytest.raises(InputError, match=match):
                context_rule(message, entry, "m")
    longer = decode_message(gpt(contexts=contexts_of(("window", 64, 32))))
    with pytest.raises(InputError, match="window 32 is longer than the model's context of 16 tokens"):
        context_rule(longer, {"mode": "window", "context_length": 64, "window": 32})
