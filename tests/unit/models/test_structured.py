"""Structured layers against the dense matrices they stand for, and trainable tensors of structured GPTs."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tokenbounds.config.schema import Kronecker, LoRA, Monarch
from tokenbounds.errors import InputError
from tokenbounds.models.gpt import GPT
from tokenbounds.models.structured import (
    FrozenEmbedding,
    KroneckerLinear,
    LoRALinear,
    MonarchLinear,
    Parallel,
    freeze,
    structure_gpt,
    structured_linear,
    trainable_count,
)
from tokenbounds.randomness import normals

MODULES = {"lora": LoRALinear, "kronecker": KroneckerLinear, "monarch": MonarchLinear}


def lora(rank, **options):
    return LoRA(kind="lora", rank=rank, **options)


def kronecker(out_factor, in_factor, **options):
    return Kronecker(kind="kronecker", out_factor=out_factor, in_factor=in_factor, **options)


def monarch(blocks, **options):
    return Monarch(kind="monarch", blocks=blocks, **options)


# (structure, inputs b, outputs a): a < b, a = b, a > b; factors of every shape; k that does and does not
# divide the width of a block
CASES = [
    (lora(1), 7, 5),
    (lora(3, scale=2.0), 6, 6),
    (lora(4), 4, 9),
    (kronecker(2, 3), 12, 8),
    (kronecker(5, 1), 6, 10),
    (kronecker(1, 6), 6, 10),
    (kronecker(4, 4), 16, 16),
    (kronecker(12, 2), 8, 12),
    (kronecker(2, 8), 8, 16),
    (monarch(2), 12, 8),
    (monarch(4), 16, 16),
    (monarch(3), 6, 15),
    (monarch(4), 8, 4),
    (monarch(4), 12, 20),
]
WITH_ROWS = [case for case in CASES if case[0].kind != "monarch"]


def draw_from(seed):
    return lambda name, shape: torch.from_numpy(normals(seed, name, shape=shape))


def make(structure, b, a, bias=True, seed=0):
    """A float64 module in evaluation mode whose every tensor matters."""
    module = MODULES[structure.kind](b, a, bias, structure, "layer").double().eval()
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            tensor.copy_(draw_from(seed)(name, tuple(tensor.shape)))
    return module


def numbers(*shape, seed=1):
    return torch.from_numpy(normals(seed, "x", shape=shape)).double()


def written_out(structure, tensors, b, a):
    """The matrix (a, b) entry by entry, from the definition."""
    W = np.zeros((a, b))
    if structure.kind == "lora":
        for r in range(structure.rank):
            W += structure.scale / structure.rank * np.outer(tensors["b"][:, r], tensors["a"][r])
        return W + tensors["frozen"]
    if structure.kind == "kronecker":
        A, B = tensors["a"], tensors["b"]
        for i in range(a):
            for j in range(b):
                W[i, j] = A[i // B.shape[0], j // B.shape[1]] * B[i % B.shape[0], j % B.shape[1]]
        return W
    first, second = tensors["first"], tensors["second"]
    k, q, p = first.shape
    for i in range(a):
        for j in range(b):
            for middle in range(k * q):
                if middle // q == j // p and middle % k == i % k:
                    W[i, j] += second[i % k, i // k, middle // k] * first[j // p, middle % q, j % p]
    return W


@pytest.mark.parametrize(("structure", "b", "a"), CASES)
def test_dense_is_the_definition(structure, b, a):
    module = make(structure, b, a)
    tensors = {
        name: tensor.detach().numpy()
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]
    }
    np.testing.assert_allclose(
        module.dense().detach().numpy(), written_out(structure, tensors, b, a), rtol=1e-13, atol=1e-13
    )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("leading", [(), (3,), (2, 5), (0,)])
@pytest.mark.parametrize(("structure", "b", "a"), CASES)
def test_forward_and_gradients_are_those_of_the_dense_matrix(structure, b, a, leading, bias):
    module = make(structure, b, a, bias)
    x = numbers(*leading, b).requires_grad_()
    weights = numbers(*leading, a, seed=2)
    wanted = [x, *module.parameters()]
    assert len(wanted) == (4 if bias else 3)
    results = []
    for y in (module(x), F.linear(x, module.dense(), module.bias)):
        results.append([y, *torch.autograd.grad((y * weights).sum(), wanted)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("order", ["strided", "transposed"])
@pytest.mark.parametrize(("structure", "b", "a"), CASES)
def test_input_need_not_be_contiguous(structure, b, a, order):
    module = make(structure, b, a)
    x = numbers(4, 3, 2 * b)[..., ::2] if order == "strided" else numbers(b, 4, 3).permute(1, 2, 0)
    torch.testing.assert_close(module(x), F.linear(x, module.dense(), module.bias), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("structure", "b", "a"), WITH_ROWS)
def test_rows_are_those_of_the_dense_matrix(structure, b, a):
    module = make(structure, b, a, bias=False)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, a, (2, 7)))
    ids[0, 0], ids[0, 1] = 0, a - 1
    weights = numbers(2, 7, b)
    wanted = list(module.parameters())
    results = []
    for rows in (module.rows(ids), module.dense()[ids]):
        assert rows.shape == (2, 7, b)
        results.append([rows, *torch.autograd.grad((rows * weights).sum(), wanted)])
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("structure", "b", "a"), [case for case in CASES if case[0].kind == "kronecker"])
def test_kronecker_multiplies_in_the_cheaper_order(structure, b, a):
    """Counted as the products are, and both orders occur among the cases and give the same result."""
    a1, b1 = structure.out_factor, structure.in_factor
    a2, b2 = a // a1, b // b1
    b_first = b1 * b2 * a2 + a1 * b1 * a2  # B on each of the b1 parts, then A for each of the a2 columns
    a_first = a1 * b1 * b2 + a1 * b2 * a2
    module = make(structure, b, a)
    assert (b_first if module.b_first else a_first) == min(b_first, a_first)
    x = numbers(3, b)
    y = module(x)
    module.b_first = not module.b_first
    torch.testing.assert_close(module(x), y, rtol=1e-12, atol=1e-12)


def test_both_kronecker_orders_are_covered():
    assert {make(*case).b_first for case in CASES if case[0].kind == "kronecker"} == {False, True}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("structure", "b", "a"), CASES)
def test_count_is_that_of_the_module(structure, b, a, bias):
    module = structured_linear(b, a, bias, structure, "layer")
    assert type(module) is MODULES[structure.kind]
    count = trainable_count(structure, b, a, bias)
    assert isinstance(count, int) and count == sum(parameter.numel() for parameter in module.parameters())


def test_counts_at_gpt2_small():
    assert trainable_count(lora(16), 768, 50304, False) == 16 * (768 + 50304)
    assert trainable_count(kronecker(32, 32), 768, 3072, True) == 32 * 32 + 96 * 24 + 3072
    assert (
        trainable_count(monarch(4), 768, 3072, False) == 4 * 192 * 192 + 4 * 192 * 768
    )  # b < a: a narrow middle ...
    assert trainable_count(monarch(4), 3072, 768, False) == 4 * 192 * 768 + 4 * 192 * 192  # ... and a > b


@pytest.mark.parametrize(("structure", "b", "a"), CASES)
def test_parameters_are_float32_and_nan_until_initialized(structure, b, a):
    module = MODULES[structure.kind](b, a, True, structure, "layer")
    names = {
        "lora": ["a", "b", "bias"],
        "kronecker": ["a", "b", "bias"],
        "monarch": ["first", "second", "bias"],
    }[structure.kind]
    assert [name for name, _ in module.named_parameters()] == names == list(module.state_dict())
    assert [name for name, _ in module.named_buffers()] == (["frozen"] if structure.kind == "lora" else [])
    for tensor in [*module.parameters(), *module.buffers()]:
        assert tensor.dtype == torch.float32 and tensor.isnan().all()
    assert module(torch.ones(b)).isnan().all()
    module.initialize(draw_from(0), 0.02)
    assert all(tensor.isfinite().all() for tensor in [*module.parameters(), *module.buffers()])
    assert not module.bias.any()


@pytest.mark.parametrize(("b", "a"), [(512, 512), (512, 1024), (1024, 512)])
@pytest.mark.parametrize(
    ("structure", "tolerance"), [(lora(8), 0.035), (kronecker(16, 32), 0.38), (monarch(8), 0.07)]
)
def test_initial_outputs_have_the_variance_of_a_dense_layer(structure, tolerance, b, a):
    """b std^2 for inputs of variance 1. Tolerances: three times the largest deviation over five seeds (a
    Kronecker factor is small)."""
    module, std = MODULES[structure.kind](b, a, True, structure, "layer"), 0.03
    module.initialize(draw_from(1), std)
    y = module.eval()(numbers(400, b).float())
    assert y.var().item() == pytest.approx(b * std**2, rel=tolerance)
    W = module.dense()
    assert W.var().item() == pytest.approx(std**2, rel=tolerance)


def test_lora_starts_at_the_frozen_matrix():
    module = LoRALinear(300, 200, False, lora(4), "layer")
    module.initialize(draw_from(0), 0.02)
    assert torch.equal(module.dense(), module.frozen) and torch.equal(
        module.frozen, draw_from(0)("frozen", (200, 300)) * 0.02
    )
    assert module.a.std().item() == pytest.approx(1 / math.sqrt(3 * 300), rel=0.1)
    assert not module.b.any() and not module.b.signbit().any()


def test_kronecker_factors_start_at_one_scale():
    module = KroneckerLinear(512, 512, False, kronecker(16, 32), "layer")
    module.initialize(draw_from(0), 0.02)
    for name, shape in (("a", (16, 32)), ("b", (32, 16))):
        torch.testing.assert_close(getattr(module, name).data, draw_from(0)(name, shape) * math.sqrt(0.02))


def test_lora_dropout_acts_in_training_on_the_update_only():
    module = make(lora(2, dropout=0.5), 6, 4)
    x = torch.ones(4000, 6, dtype=torch.float64)
    expected = module(x[0])
    torch.manual_seed(0)
    with torch.no_grad():
        y = module.train()(x)
        assert y.std(0).min() > 0.1
        torch.testing.assert_close(
            y.mean(0), expected, rtol=0, atol=5 * (y.std(0).max() / math.sqrt(len(x))).item()
        )
        module.b.zero_()
        torch.testing.assert_close(module(x[0]), F.linear(x[0], module.frozen, module.bias))


@pytest.mark.parametrize("structure", [lora(2), kronecker(2, 3), monarch(2)])
def test_outputs_under_autocast_are_of_the_type_that_a_dense_layer_gives(structure):
    module = MODULES[structure.kind](12, 8, True, structure, "layer").eval()
    module.initialize(draw_from(0), 0.1)
    x = numbers(5, 12).float().requires_grad_()
    exact = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), exact, rtol=0.05, atol=0.05)
    y.float().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in module.parameters())


@pytest.mark.parametrize(
    ("structure", "b", "a", "message"),
    [
        (lora(5), 4, 9, "layer 3: out 9, in 4: structure.rank is 5, expected at most 4"),
        (kronecker(4, 2), 8, 6, "layer 3: out 6, in 8: structure.out_factor is 4, expected a divisor of 6"),
        (kronecker(2, 3), 8, 6, "layer 3: out 6, in 8: structure.in_factor is 3, expected a divisor of 8"),
        (kronecker(12, 2), 8, 6, "layer 3: out 6, in 8: structure.out_factor is 12, expected a divisor of 6"),
        (monarch(4), 8, 6, "layer 3: out 6, in 8: structure.blocks is 4, expected a divisor of 6"),
        (monarch(4), 6, 8, "layer 3: out 8, in 6: structure.blocks is 4, expected a divisor of 6"),
    ],
)
def test_a_structure_that_does_not_fit_is_refused(structure, b, a, message):
    with pytest.raises(InputError) as error:
        MODULES[structure.kind](b, a, True, structure, "layer 3")
    assert str(error.value) == message
    with pytest.raises(InputError, match="structure"):
        trainable_count(structure, b, a, True)


def test_input_of_another_width_is_refused():
    for structure in (lora(1), kronecker(2, 2), monarch(2)):
        with pytest.raises(RuntimeError):
            make(structure, 4, 4)(numbers(2, 8))


# ---------------------------------------------------------------- a GPT

ARCHITECTURE = {"layers": 2, "heads": 2, "width": 8, "context_length": 6, "bias": True}
VOCAB = 13
STRUCTURES = [lora(2), kronecker(4, 2), monarch(4)]


def gpt_of(structure, **options):
    gpt = GPT({**ARCHITECTURE, **options}, VOCAB)
    structure_gpt(gpt, structure.model_copy(update={"vocab_multiple": 8}))
    return gpt


def expected_trainables(structure, bias):
    """Names of the trainable tensors, from the description of the structures."""
    tensors = ["first", "second"] if structure.kind == "monarch" else ["a", "b"]
    biases = ["bias"] if bias and structure.train_biases else []
    layers = ["attention.qkv.q", "attention.qkv.k", "attention.qkv.v", "attention.output"]
    mlps = ["mlp.input", "mlp.output"]
    inside = [f"{layer}.{tensor}" for layer in layers for tensor in tensors + biases]
    if structure.layers == "all":
        inside += [f"{layer}.{tensor}" for layer in mlps for tensor in tensors + biases]
    else:
        inside += [
            f"{layer}.{tensor}"
            for layer in mlps
            for tensor in ([] if structure.kind == "lora" else ["weight"]) + biases
        ]
    norms = (["weight"] if structure.train_norms else []) + biases
    inside += [f"{norm}.{tensor}" for norm in ("attention_norm", "mlp_norm") for tensor in norms]
    names = {f"blocks.{i}.{name}" for i in range(2) for name in inside}
    return (
        names | {f"final_norm.{tensor}" for tensor in norms} | {f"vocabulary.{tensor}" for tensor in tensors}
    )


@pytest.mark.parametrize("positions", ["rotary", "learned"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("train_biases", "train_norms"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("layers", ["all", "attention"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_trainable_tensors_of_a_gpt(structure, layers, train_biases, train_norms, bias, positions):
    structure = structure.model_copy(
        update={"layers": layers, "train_biases": train_biases, "train_norms": train_norms}
    )
    gpt = gpt_of(structure, bias=bias, positions=positions)
    assert {name for name, _ in gpt.named_parameters()} == expected_trainables(structure, bias)
    assert set(gpt.state_dict()) == {name for name, _ in gpt.named_parameters()}
    with torch.device("meta"):
        blueprint = gpt_of(structure, bias=bias, positions=positions)
    assert all(tensor.is_meta for tensor in [*blueprint.parameters(), *blueprint.buffers()])
    assert blueprint.layout() == gpt.layout()
    shapes = {name: tuple(tensor.shape) for name, tensor in gpt.named_buffers()}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in blueprint.named_buffers()}
    for name, tensor in gpt.named_buffers():
        if name.endswith("bias"):
            assert not train_biases and not tensor.any(), name
        if "norm" in name and name.endswith("weight"):
            assert not train_norms and (tensor == 1).all(), name


@pytest.mark.parametrize("structure", STRUCTURES)
def test_shapes_in_a_gpt(structure):
    gpt = gpt_of(structure)
    kind = MODULES[structure.kind]
    block = gpt.blocks[1]
    assert (
        type(gpt.vocabulary)
        is type(block.attention.output)
        is type(block.mlp.input)
        is type(block.mlp.output)
        is kind
    )
    assert type(block.attention.qkv) is Parallel and type(block.attention.qkv.k) is kind
    shapes = [
        (m.in_features, m.out_features)
        for m in (gpt.vocabulary, block.attention.output, block.mlp.input, block.mlp.output)
    ]
    assert shapes == [(8, 16), (8, 8), (8, 32), (32, 8)]
    assert gpt.vocabulary.bias is None
    if structure.kind == "monarch":
        assert type(gpt.embedding) is FrozenEmbedding and gpt.embedding.frozen.shape == (VOCAB, 8)
    else:
        assert gpt.embedding is None


@pytest.mark.parametrize("layers", ["all", "attention"])
@pytest.mark.parametrize("structure", STRUCTURES)
def test_blocks_of_a_structured_gpt_compute_what_dense_blocks_do(structure, layers):
    """The blocks of a GPT whose dense weights are the matrices that the structured ones stand for."""
    gpt = gpt_of(structure.model_copy(update={"layers": layers})).double().eval()
    dense = GPT(ARCHITECTURE, VOCAB).double().eval()
    with torch.no_grad():
        for name, tensor in [*gpt.named_parameters(), *gpt.named_buffers()]:
            if name not in ("cos", "sin"):
                tensor.copy_(draw_from(5)(name, tuple(tensor.shape)) * 0.3)
        for ours, theirs in zip(gpt.blocks, dense.blocks, strict=True):
            qkv = ours.attention.qkv
            theirs.attention.qkv.weight.copy_(torch.cat([m.dense() for m in (qkv.q, qkv.k, qkv.v)]))
            theirs.attention.qkv.bias.copy_(torch.cat([m.bias for m in (qkv.q, qkv.k, qkv.v)]))
            pairs = [(ours.attention.output, theirs.attention.output)]
            pairs += [(ours.mlp.input, theirs.mlp.input), (ours.mlp.output, theirs.mlp.output)]
            for structured, linear in pairs:
                linear.weight.copy_(
                    structured.weight if isinstance(structured, torch.nn.Linear) else structured.dense()
                )
                linear.bias.copy_(structured.bias)
            for name in ("attention_norm", "mlp_norm"):
                getattr(theirs, name).load_state_dict(getattr(ours, name).state_dict())
    x = numbers(3, 6, 8)
    for ours, theirs in zip(gpt.blocks, dense.blocks, strict=True):
        torch.testing.assert_close(
            ours(x, (gpt.cos, gpt.sin)), theirs(x, (gpt.cos, gpt.sin)), rtol=1e-10, atol=1e-10
        )


def test_an_error_names_the_layer_of_the_gpt():
    with pytest.raises(
        InputError, match=r"vocabulary \(13 tokens padded to 13\): out 13, in 8: structure.blocks is 4"
    ):
        structure_gpt(GPT(ARCHITECTURE, VOCAB), monarch(4, vocab_multiple=1))
    with pytest.raises(
        InputError, match=r"blocks\.0\.attention\.qkv\.q: out 8, in 8: structure.out_factor is 16"
    ):
        structure_gpt(GPT(ARCHITECTURE, VOCAB), kronecker(16, 2))


def test_frozen_embedding_looks_up_its_draw():
    table = FrozenEmbedding(5, 3)
    assert table.frozen.isnan().all() and not list(table.parameters()) and not table.state_dict()
    table.initialize(draw_from(2), 0.5)
    expected = draw_from(2)("frozen", (5, 3)) * 0.5
    assert torch.equal(table(torch.tensor([[4, 0]])), expected[[4, 0]].unsqueeze(0))


def test_a_frozen_parameter_keeps_its_name_and_leaves_the_state_dict():
    linear = torch.nn.Linear(3, 2)
    before = copy.deepcopy(linear)
    freeze(linear, "weight")
    assert [name for name, _ in linear.named_parameters()] == ["bias"] == list(linear.state_dict())
    x = torch.ones(3)
    assert torch.equal(linear(x), before(x)) and not linear.weight.requires_grad
