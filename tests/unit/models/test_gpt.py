"""The GPT, its weights in files, and the layout that messages rely on."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from tokenbounds.config.schema.structures import LoRA
from tokenbounds.errors import InputError
from tokenbounds.models import layers
from tokenbounds.models.folders import load_config, load_model, save_model
from tokenbounds.models.gpt import GPT, rotary_tables, rotate
from tokenbounds.models.registry import build_model, fill_model, layout_of

ARCHITECTURE = {"layers": 2, "heads": 2, "width": 16, "context_length": 12}
VOCAB = 37
CONFIG = {
    "family": "gpt",
    "vocab_size": VOCAB,
    "architecture": ARCHITECTURE,
    "start_token": "first",
    "eot_id": 0,
}
VARIANTS = [
    {"positions": positions, "bias": bias} for positions in ("rotary", "learned") for bias in (False, True)
]


def make(seed=3, **options):
    return GPT({**ARCHITECTURE, **options}, VOCAB).initialize(seed).eval()


def ids(shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, VOCAB, shape))


@pytest.mark.parametrize("options", VARIANTS)
def test_agrees_with_a_plain_transformer_in_float64(options):
    """The same formula written out in NumPy, every position and head on its own."""
    model, x = make(**options), ids((3, 12))
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too must matter
            parameter.add_(
                0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
        got = model.head(model.hidden(x))
    assert got.dtype == torch.float32 and got.shape == (3, 12, VOCAB)
    tensors = {name: parameter.detach().double().numpy() for name, parameter in model.named_parameters()}
    for row, tokens in zip(got.numpy(), x.numpy(), strict=True):
        np.testing.assert_allclose(row, plain_gpt(tensors, tokens, **options), rtol=2e-4, atol=2e-4)


def plain_gpt(tensors, tokens, positions, bias):
    """Logits (T, V) by loops, float64."""
    width, heads = ARCHITECTURE["width"], ARCHITECTURE["heads"]
    D, T = width // heads, len(tokens)

    def norm(x, name):
        y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return y * tensors[f"{name}.weight"] + (tensors[f"{name}.bias"] if bias else 0)

    def linear(x, name):
        return x @ tensors[f"{name}.weight"].T + (tensors[f"{name}.bias"] if bias else 0)

    def turn(vector, position):
        if positions == "learned":
            return vector
        pairs = vector[: D // 2] + 1j * vector[D // 2 :]
        pairs = pairs * np.exp(1j * position * 10000.0 ** (-2 * np.arange(D // 2) / D))
        return np.concatenate([pairs.real, pairs.imag])

    x = tensors["embedding.weight"][tokens]
    if positions == "learned":
        x = x + tensors["positions.weight"][:T]
    for i in range(ARCHITECTURE["layers"]):
        qkv = linear(norm(x, f"blocks.{i}.attention_norm"), f"blocks.{i}.attention.qkv")
        mixed = np.zeros((T, width))
        for h in range(heads):
            q, k, v = (qkv[:, part * width + h * D : part * width + (h + 1) * D] for part in range(3))
            for t in range(T):
                scores = np.array([turn(q[t], t) @ turn(k[s], s) for s in range(t + 1)]) / math.sqrt(D)
                weights = np.exp(scores - scores.max())
                mixed[t, h * D : (h + 1) * D] = weights / weights.sum() @ v[: t + 1]
        x = x + linear(mixed, f"blocks.{i}.attention.output")
        inner = linear(norm(x, f"blocks.{i}.mlp_norm"), f"blocks.{i}.mlp.input")
        inner = inner * np.vectorize(lambda z: (1 + math.erf(z / math.sqrt(2))) / 2)(inner)
        x = x + linear(inner, f"blocks.{i}.mlp.output")
    return norm(x, "final_norm") @ tensors["embedding.weight"].T


@pytest.mark.parametrize("options", VARIANTS)
def test_causal(options):
    model, x = make(**options), ids((2, 12))
    changed = x.clone()
    changed[:, 7] = (changed[:, 7] + 1) % VOCAB
    with torch.no_grad():
        before, after = model.hidden(x), model.hidden(changed)
    torch.testing.assert_close(before[:, :7], after[:, :7], rtol=0, atol=1e-6)
    assert ((before[:, 7:] - after[:, 7:]).abs().amax(-1) > 1e-4).all()


def test_rotary_depends_on_distance_only():
    rng = np.random.default_rng(5)
    cos, sin = rotary_tables(40, 8)
    q, k = (torch.from_numpy(rng.standard_normal(8)).float().expand(40, 8) for _ in range(2))
    scores = rotate(q, cos, sin) @ rotate(k, cos, sin).T
    for distance in (0, 3, 11):
        along = scores.diagonal(-distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rotate(q, cos, sin).norm(dim=-1), q.norm(dim=-1))


def test_loss_is_the_mean_over_tokens_also_over_several_chunks():
    model = GPT({**ARCHITECTURE, "context_length": 64}, VOCAB).initialize(1)
    x = ids((9, 65))  # 576 rows: two whole chunks of 256 and a part
    loss = model(x[:, :-1], x[:, 1:])
    assert loss.dtype == torch.float32
    expected = F.cross_entropy(model.head(model.hidden(x[:, :-1])).double().flatten(0, 1), x[:, 1:].flatten())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()
    got = model.embedding.weight.grad.clone()
    model.zero_grad()
    expected.backward()
    torch.testing.assert_close(got, model.embedding.weight.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("structure", [None, {"kind": "lora", "rank": 2, "dropout": 0.5}])
def test_logits_that_are_computed_again_change_no_gradient(monkeypatch, structure):
    """Also under dropout in the head, which must fall on the same numbers again."""
    monkeypatch.setattr(layers, "_LOSS_ROWS_CPU", 7)
    model = GPT(ARCHITECTURE, VOCAB, structure and LoRA(**structure)).initialize(3).train()
    x, results, computed = ids((6, 12)), [], []
    head = model._logits
    monkeypatch.setattr(model, "_logits", lambda hidden: computed.append(len(hidden)) or head(hidden))
    for most in (72, 71):
        monkeypatch.setattr(layers, "_LOSS_ROWS", most)
        torch.manual_seed(5)
        loss = model(x, ids((6, 12), seed=1))
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        results.append([loss, *torch.autograd.grad(loss, parameters)])
    assert computed[:11] == [7] * 10 + [2] and sum(computed) == 72 + 2 * 72
    assert all(torch.equal(kept, again) for kept, again in zip(*results, strict=True))
    with torch.no_grad():
        model(x, x)
    assert sum(computed) == 4 * 72  # nothing is computed again where there is no backward pass


def test_head_is_float32_under_autocast():
    model, x = make(), ids((1, 12))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        hidden = model.hidden(x)
        logits = model.head(hidden)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, hidden.float() @ model.embedding.weight.T)


def test_initial_weights_depend_on_seed_and_architecture_only():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one = make(seed=7, dropout=0.5).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    two, other = make(seed=7).state_dict(), make(seed=8).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["embedding.weight"], other["embedding.weight"])
    assert not torch.equal(one["blocks.0.attention.qkv.weight"], one["blocks.1.attention.qkv.weight"])


def test_scale_of_initial_weights():
    model = GPT({**ARCHITECTURE, "width": 192, "bias": True, "positions": "learned"}, 500).initialize(0)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif parameter.ndim == 1:
            assert (parameter == 1).all()
        else:
            expected = (
                0.02 if name.endswith(("attention.output.weight", "mlp.output.weight")) else 0.04
            )  # 0.02 sqrt(768 / 192), / sqrt(2 x 2 layers)
            tolerance = 5 / math.sqrt(2 * parameter.numel())  # 5 standard errors of a standard deviation
            assert parameter.std().item() == pytest.approx(expected, rel=tolerance), name


def test_a_model_without_weights_predicts_nan():
    model = build_model(CONFIG)
    assert model.head(model.hidden(ids((1, 4)))).isnan().all()


def test_dropout_only_in_training():
    model, x = make(dropout=0.3), ids((2, 12))
    with torch.no_grad():
        assert torch.equal(model.hidden(x), make().hidden(x))
        model.train()
        assert not torch.equal(model.hidden(x), model.hidden(x))


def test_too_long_a_sequence():
    with pytest.raises(InputError, match="13 tokens is longer than the model's context_length 12"):
        make().hidden(ids((1, 13)))


@pytest.mark.parametrize("options", VARIANTS)
def test_layout_from_the_config_alone(options):
    config = {**CONFIG, "architecture": {**ARCHITECTURE, **options}}
    model = build_model(config)
    expected = [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
    assert layout_of(config) == model.layout() == expected
    names = [name for name, _ in expected]
    assert len(set(names)) == len(names)
    assert [shape for name, shape in expected if shape == (VOCAB, 16)] == [(VOCAB, 16)]  # the tied head once


def test_layout_of_a_huge_model_allocates_nothing():
    huge = {"layers": 96, "heads": 96, "width": 12288, "context_length": 2048}  # 175e9 parameters
    assert (
        sum(math.prod(shape) for _, shape in layout_of({**CONFIG, "architecture": huge, "vocab_size": 50257}))
        > 170e9
    )


def test_saved_and_loaded(tmp_path):
    model = make()
    save_model(tmp_path, model, CONFIG, {"seed": 3})
    loaded, config = load_model(tmp_path)
    assert config == CONFIG == load_config(tmp_path) and not loaded.training
    assert json.loads((tmp_path / "config.json").read_text())["provenance"] == {"seed": 3}
    assert all(
        torch.equal(a, b)
        for a, b in zip(model.state_dict().values(), loaded.state_dict().values(), strict=True)
    )


def break_tensors(change):
    def apply(folder):
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return apply


def break_config(**changes):
    def apply(folder):
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, **changes}))

    return apply


def torn(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-7])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            break_tensors(lambda t: t.pop("final_norm.weight")),
            "model.safetensors: tensor 'final_norm.weight' is missing",
        ),
        (
            break_tensors(lambda t: t.update(extra=torch.ones(2))),
            "model.safetensors: tensor 'extra' is not one of the model's",
        ),
        (
            break_tensors(lambda t: t.update({"final_norm.weight": torch.ones(17)})),
            r"'final_norm.weight' has shape \[17\], expected \[16\]",
        ),
        (
            break_tensors(lambda t: t["blocks.0.mlp.input.weight"].view(-1)[5:7].fill_(math.nan)),
            "'blocks.0.mlp.input.weight' holds 2 values",
        ),
        (
            break_tensors(lambda t: t["final_norm.weight"][3:4].fill_(-math.inf)),
            "'final_norm.weight' holds 1 values that are NaN or infinite",
        ),
        (
            break_tensors(lambda t: t.update({"final_norm.weight": torch.ones(16, dtype=torch.int32)})),
            "torch.int32, expected floating point",
        ),
        (torn, "model.safetensors: not a whole safetensors file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: no such file"),
        (lambda folder: (folder / "config.json").unlink(), "config.json: no such file"),
        (break_config(family="gtp"), "config.json: family 'gtp' is not known; expected one of gpt"),
        (
            break_config(eot_id=VOCAB),
            "config.json: the configuration: eot_id 37 is outside the vocabulary of 37 tokens",
        ),
        (break_config(start_token="never"), "config.json: start_token: .*'first' or 'always'"),
        (break_config(vocabulary=5), "config.json: vocabulary: "),
        (
            break_config(architecture={**ARCHITECTURE, "heads": 3}),
            "config.json: architecture: width 16 is not a multiple of heads 3",
        ),
        (
            break_config(architecture={**ARCHITECTURE, "layers": 3}),
            "tensor 'blocks.2.attention.output.weight' is missing",
        ),
    ],
)
def test_damaged_model_is_refused_in_one_line(tmp_path, damage, message):
    save_model(tmp_path, make(), CONFIG, {})
    damage(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_nothing_is_saved_of_a_model_with_nan(tmp_path):
    with pytest.raises(InputError, match="NaN"):
        save_model(tmp_path, build_model(CONFIG), CONFIG, {})
    assert not list(tmp_path.iterdir())


def test_fill_from_numpy_arrays():
    model = make()
    tensors = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
    filled = fill_model(build_model(CONFIG), tensors, "message")
    assert torch.equal(filled.hidden(ids((1, 5))), model.hidden(ids((1, 5))))


def test_models_package_is_imported_without_torch():
    code = (
        "import sys, tokenbounds.config.load, tokenbounds.models.registry, tokenbounds.models.quip; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
