"""QuIP# checkpoints: the tables, the unpacking, whole layers and whole models, against definitions written out and reference files."""

import hashlib
import json
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from quip_checkpoints import CONFIG, PARAMS, packed_linear, random_tensors, write_checkpoint
from safetensors.torch import load_file, save_file

from tokenbounds.errors import InputError
from tokenbounds.models import quip
from tokenbounds.models.quip import HADAMARD_ORDERS, QuipCheckpoint, QuipLlama, QuipParams, dequantize, e8p_table, e81b_table, hadamard


def sha256(table, scale):
    scaled = table * scale
    assert np.array_equal(scaled, scaled.astype(np.int8))  # else other tables could have the same bytes
    return hashlib.sha256(scaled.astype(np.int8).tobytes()).hexdigest()


# ---------------------------------------------------------------- tables


def test_e8p_table():
    table = e8p_table()
    assert table.shape == (65536, 8) and table.dtype == np.float32
    assert sha256(table, 4) == "ea3883a85a627590ca74626320a2a691943386a8c89ac72cdb6388bfe7da5cc0"
    assert table[0x8A5C].tolist() == [0.75, -1.25, 1.75, 1.75, -0.25, -1.25, -0.25, 0.75]
    with pytest.raises(ValueError, match="read-only"):
        table[0, 0] = 0


def test_e81b_table():
    table = e81b_table()
    assert table.shape == (256, 8) and table.dtype == np.float32
    assert sha256(table, 2) == "37ce1a66345c1bbc51427c9e13e355558727bc02828e09f751b4d46fd7f816ec"


@pytest.mark.parametrize("order", HADAMARD_ORDERS)
def test_hadamard_matrices_are_orthogonal(order):
    matrix = hadamard(order).astype(int)
    assert set(np.unique(matrix)) == {-1, 1}
    assert np.array_equal(matrix @ matrix.T, order * np.eye(order))


HADAMARD_SHA256 = {  # first 16 digits
    **{12: "67507aecbe2abee5", 20: "f54960fecf1ccf70", 28: "a6cb994c78f9acd4", 52: "9ee082772819b105", 60: "091e76fba0aef583"},
    **{108: "690a34c6c9ed2f0e", 140: "b9ff01506ffe4db5", 156: "99a1b852ce559ffd", 172: "378ef12c7cc31f3e"},
}


@pytest.mark.parametrize("order", HADAMARD_SHA256)
def test_hadamard_matrices_are_those_of_the_format(order):
    assert sha256(hadamard(order), 1).startswith(HADAMARD_SHA256[order])


def test_hadamard_matrices_of_the_reference(shared):
    for name, matrix in load_file(shared / "vectors/quip/hadamard_int8.safetensors").items():
        assert np.array_equal(hadamard(int(name.removeprefix("had"))), matrix.numpy()), name


def explicit_hadamard(n):
    order = quip.hadamard_order(n)
    sylvester = scipy.linalg.hadamard(n // order)
    return np.kron(hadamard(order) if order > 1 else np.ones((1, 1)), sylvester) / math.sqrt(n)


@pytest.mark.parametrize("n", [1, 2, 64, 512, 12, 12 * 32, 20 * 16, 28 * 4, 52 * 4, 172, 172 * 8])
def test_hadamard_transform_is_the_product_with_the_matrix(n):
    x = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    np.testing.assert_allclose(quip.hadamard_transform(x), explicit_hadamard(n) @ x.numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("size, order", [(4096, 1), (12288, 12), (22016, 172), (11008, 172), (27648, 108), (19968, 156), (57344, 28)])
def test_hadamard_orders_of_published_widths(size, order):
    assert quip.hadamard_order(size) == order


@pytest.mark.parametrize("size", [7, 11 * 64, 12 * 11, 172 * 3])
def test_widths_without_a_hadamard_matrix(size):
    with pytest.raises(InputError, match=f"width {size} has no Hadamard matrix"):
        quip.hadamard_order(size)


# ---------------------------------------------------------------- one linear


def plain_codes(words):
    """Codes of an E8P block, bit by bit, (m, n / 8)."""
    rows, columns = words.shape
    blocks = np.ascontiguousarray(words).reshape(rows // 16, columns // 2, 8, 4)
    codes = np.full((rows, columns * 4), -1)
    for (R, C, r, g), word in np.ndenumerate(blocks):
        word = int(word) % 2**64
        for k in range(4):
            signs = sum((word >> 32 + 4 * p + k & 1) << p for p in range(8))
            codes[16 * R + 2 * r + (k & 1), (64 * C + 16 * g + 8 * (k >> 1)) // 8] = (word >> 8 * k & 255) << 8 | signs
    return codes


def plain_dequantize(tensors, bits, residual_scale, fuse_sizes=None):
    """The dense weight with explicit matrices in float64."""
    stored = {name: tensor.numpy() for name, tensor in tensors.items()}
    outputs, inputs = len(stored["SV"]), len(stored["SU"])
    words, first = stored["Qidxs"], inputs // 32
    points = e8p_table()[plain_codes(words[:, :first])].astype(float)
    if bits == 4:
        points += e8p_table()[plain_codes(words[:, first:])] / residual_scale
    if bits == 3:
        points += e81b_table()[np.ascontiguousarray(words[:, first:]).view(np.uint8)] / residual_scale
    weight = explicit_hadamard(outputs) @ points.reshape(outputs, inputs) @ explicit_hadamard(inputs).T
    weight *= np.outer(stored["SV"].astype(float) * float(stored["Wscale"]), stored["SU"].astype(float))
    if "scaleWH" in stored:
        weight /= stored["scaleWH"]
    return weight * np.repeat(stored["fuse_scales"].astype(float), fuse_sizes)[:, None] if fuse_sizes else weight


def test_unpacking_against_single_bits():
    words = packed_linear(2, 48, 192, seed=1)["Qidxs"]
    assert np.array_equal(quip.unpack_e8p(words), plain_codes(words.numpy()))


@pytest.mark.parametrize("slab", [1, 1 << 20])  # many slabs, the last one smaller, and one
@pytest.mark.parametrize(
    "bits, override, scale, fuse_sizes, scale_wh",
    [(2, -1, None, None, True), (3, -1, 2.04, (96, 48, 48), False), (4, -1, 3.45, None, False), (4, 1.5, 1.5, (96, 96), True)],
)
def test_dequantize_is_the_formula(monkeypatch, bits, override, scale, fuse_sizes, scale_wh, slab):
    monkeypatch.setattr(quip, "_SLAB", slab)
    tensors = packed_linear(bits, 192, 320, fuse_sizes, scale_wh, seed=bits)
    params = {**PARAMS[bits], "resid_scale_override": override, "rescale_WH": scale_wh}
    got, expected = dequantize(tensors, params, fuse_sizes), plain_dequantize(tensors, bits, scale, fuse_sizes)
    assert got.dtype == torch.float32 and got.shape == (192, 320)
    # Two transforms in float32, sums of 20 to 500 terms: a few units in the last place of the largest intermediate.
    np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def test_dequantize_agrees_with_the_reference(shared):
    folder = shared / "vectors/quip"
    files = {name: about for name, about in json.loads((folder / "README.json").read_text())["files"].items() if "fuse_sizes" in about}
    assert len(files) >= 30
    for name, about in files.items():
        stored = load_file(folder / name)
        expected = {key.removeprefix("expected."): stored.pop(key) for key in list(stored) if key.startswith("expected.")}
        inputs = about["in_features"]
        assert torch.equal(quip.unpack_e8p(stored["Qidxs"][:, : inputs // 32]), expected["codes"]), name
        if about["quip_params"]["codebook"] == "E8P12RVQ4B":
            assert torch.equal(quip.unpack_e8p(stored["Qidxs"][:, inputs // 32 :]), expected["resid_codes"]), name
        weight = dequantize(stored, about["quip_params"], about["fuse_sizes"]).double()
        rms = expected["W"].double().square().mean().sqrt()
        assert (weight - expected["W"]).abs().max() <= 5e-6 * rms, name  # the files' stated tolerance
        y = expected["x"].double() @ weight.T
        for key, rows in (("y_ref_batch", y), ("y_ref_single", y[:1])):
            assert (expected[key] - rows).norm() <= 1e-3 * rows.norm(), (name, key)


PARAMETER_FAULTS = [
    ({"codebook": "E8P12", "codebook_version": 0}, "codebook E8P12 version 0 is not known"),
    ({"codebook": "E8P12"}, "codebook E8P12 version None is not known"),
    ({"codebook": "D4", "codebook_version": 1}, "codebook D4 version 1 is not known"),
    ({"lora_rank": 32}, r"lora_rank: .*\(found 32\)"),
    ({"outlier_channel_split": True}, r"outlier_channel_split: .*\(found True\)"),
    ({"fused": False}, r"fused: .*\(found False\)"),
    ({"resid_scale_override": 0}, "resid_scale_override 0.0 is neither positive nor -1"),
    ({"resid_scale_override": math.nan}, "resid_scale_override: .*finite"),
    ({"permutation": "random"}, r"permutation: .*\(found 'random'\)"),
    ({"rescale_WH": True}, "tensor 'scaleWH' is missing"),
]


@pytest.mark.parametrize("fault, message", PARAMETER_FAULTS)
def test_parameters_that_need_another_decoder(fault, message):
    params = fault if "codebook" in fault else {**PARAMS[2], **fault}
    with pytest.raises(InputError, match=message) as caught:
        dequantize(packed_linear(2, 32, 64), params)
    assert "\n" not in str(caught.value)


def with_nan(tensor):
    tensor = tensor.clone()
    tensor.view(-1)[0] = math.nan
    return tensor


TENSOR_FAULTS = [
    ("SU", with_nan, "tensor 'SU' holds 1 values that are NaN"),
    ("SV", with_nan, "tensor 'SV' holds 1 values that are NaN"),
    ("Wscale", with_nan, "tensor 'Wscale' holds 1 values that are NaN"),
    ("SU", lambda tensor: tensor[:48], "input width 48 is not a multiple of 64"),
    ("SV", lambda tensor: tensor[:24], "output width 24 is not a multiple of 16"),
    ("SV", lambda tensor: tensor.repeat(7)[: 112 * 3], "output width 336 has no Hadamard matrix"),
    ("SU", lambda tensor: tensor[None], r"tensor 'SU' has shape \[1, 64\], expected one dimension"),
    ("SU", lambda tensor: None, "tensor 'SU' has shape none"),
    ("Wscale", lambda tensor: None, "tensor 'Wscale' is missing"),
    ("SU", lambda tensor: tensor.float(), "tensor 'SU' is torch.float32 of shape"),
    ("Qidxs", lambda tensor: tensor.int(), "tensor 'Qidxs' is torch.int32 of shape"),
    ("Qidxs", lambda tensor: tensor[:, :1], r"tensor 'Qidxs' is I64 of shape \[64, 1\], expected I64 of shape \[64, 2\]"),
    ("codebook_id", lambda tensor: torch.tensor(17), "codebook_id 17, expected 7 for E8P12"),
    ("bias", lambda tensor: torch.zeros(64), "tensor 'bias' is not one of the model's"),
]


@pytest.mark.parametrize("name, change, message", TENSOR_FAULTS)
def test_tensors_that_do_not_fit(name, change, message):
    tensors = packed_linear(2, 64, 64)
    tensors[name] = change(tensors.get(name))
    with pytest.raises(InputError, match=message) as caught:
        dequantize({key: tensor for key, tensor in tensors.items() if tensor is not None}, PARAMS[2], where="layers.3.o_proj")
    assert str(caught.value).startswith("layers.3.o_proj: ") and "\n" not in str(caught.value)


def test_fused_blocks_that_do_not_fit():
    with pytest.raises(InputError, match=r"fuse_sizes \[32, 16\] add up to 48, expected the 64 rows"):
        dequantize(packed_linear(2, 64, 64, (32, 32)), PARAMS[2], (32, 16))
    with pytest.raises(InputError, match="tensor 'fuse_scales' is missing"):
        dequantize(packed_linear(2, 64, 64), PARAMS[2], (32, 32))
    with pytest.raises(InputError, match="tensor 'fuse_scales' is not one of"):
        dequantize(packed_linear(2, 64, 64, (32, 32)), PARAMS[2])
    tensors = packed_linear(2, 64, 64, scale_wh=True)
    tensors["scaleWH"][3] = 0
    with pytest.raises(InputError, match="tensor 'scaleWH' holds a zero"):
        dequantize(tensors, {**PARAMS[2], "rescale_WH": True})


# ---------------------------------------------------------------- whole checkpoints

KV_HEADS = 2
VOCAB = CONFIG["vocab_size"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("quip") / "model", {**CONFIG, "num_key_value_heads": KV_HEADS, "rope_theta": 500.0})


def ids(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, VOCAB, shape))


def test_a_layer_in_the_usual_names(folder):
    checkpoint, stored = QuipCheckpoint(folder), load_file(folder / "model.safetensors")
    layer = checkpoint.layer(1)
    shapes = {"q_proj": (64, 64), "k_proj": (32, 64), "v_proj": (32, 64), "o_proj": (64, 64), "down_proj": (64, 192)}
    shapes |= {"up_proj": (192, 64), "gate_proj": (192, 64), "input_layernorm": (64,), "post_attention_layernorm": (64,)}
    assert {name: tuple(tensor.shape) for name, tensor in layer.items()} == shapes
    assert all(tensor.dtype == torch.float32 for tensor in layer.values())

    def plain(name, fuse_sizes):
        prefix = f"model.layers.1.{name}."
        return plain_dequantize({k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}, 3, 2.04, fuse_sizes)

    qkv, upgate = plain("self_attn.qkv_proj", (64, 32, 32)), plain("mlp.upgate_proj", (192, 192))
    for name, expected in (("k_proj", qkv[64:96]), ("up_proj", upgate[:192]), ("gate_proj", upgate[192:])):  # up before gate
        np.testing.assert_allclose(layer[name], expected, rtol=0, atol=3e-6 * np.abs(expected).max())
    with pytest.raises(IndexError):
        checkpoint.layer(2)


@pytest.fixture(scope="module")
def dense_model(folder):
    """The same weights in an ordinary Hugging Face LLaMA."""
    from transformers import LlamaConfig, LlamaForCausalLM

    checkpoint = QuipCheckpoint(folder)
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "rms_norm_eps")
    rope = {"rope_type": "default", "rope_theta": 500.0}
    model = LlamaForCausalLM(LlamaConfig(**{key: CONFIG[key] for key in keys}, num_key_value_heads=KV_HEADS, rope_parameters=rope)).eval()
    state = {name: checkpoint.weights(name) for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")}
    for i in range(2):
        for name, tensor in checkpoint.layer(i).items():
            part = {"q": "self_attn.", "k": "self_attn.", "v": "self_attn.", "o": "self_attn.", "u": "mlp.", "g": "mlp.", "d": "mlp."}
            state[f"model.layers.{i}.{part[name[0]] if 'proj' in name else ''}{name}.weight"] = tensor
    model.load_state_dict(state)
    return model


@pytest.mark.parametrize("part_tokens", [8192, 30])  # the batch in one part, and in parts of two rows and one
def test_the_model_is_that_llama(folder, dense_model, monkeypatch, part_tokens):
    monkeypatch.setattr(quip, "_PART_TOKENS", part_tokens)
    model, x = QuipLlama(QuipCheckpoint(folder)), ids(3, 15)
    with torch.no_grad():
        expected = dense_model(x).logits
    hidden = model.hidden(x)
    logits = model.head(hidden)
    assert hidden.shape == (3, 15, 64) and logits.shape == (3, 15, VOCAB) and logits.dtype == torch.float32
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)


def test_a_state_sees_nothing_after_it(folder):
    model, x = QuipLlama(QuipCheckpoint(folder)), ids(2, 12)
    torch.testing.assert_close(model.hidden(x)[:, :5], model.hidden(x[:, :5]), rtol=0, atol=2e-5)
    with pytest.raises(InputError, match="a sequence of 25 tokens is longer than the model's 24 positions"):
        model.hidden(ids(1, 25))


def test_packed_tensors_in_memory_or_on_disk(folder, monkeypatch):
    x, resident = ids(2, 8), QuipCheckpoint(folder, resident=True)
    model = QuipLlama(resident)
    first = model.hidden(x)
    assert torch.equal(first, QuipLlama(QuipCheckpoint(folder)).hidden(x))
    reads = []
    monkeypatch.setattr(resident, "tensor", lambda name: reads.append(name) or QuipCheckpoint.tensor(resident, name))
    assert torch.equal(model.hidden(x), first)
    assert reads and all("norm" in name for name in reads)


def test_shards_of_the_index_and_no_others(folder, tmp_path):
    config, tensors = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    sharded = write_checkpoint(tmp_path / "sharded", config, tensors, shards=3)
    save_file({name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, sharded / "model.safetensors")
    save_file({"model.norm.weight": torch.zeros(64).half()}, sharded / "model-00001-of-00002.safetensors")
    checkpoint = QuipCheckpoint(sharded)
    names = ["config.json", "model.safetensors.index.json", *(f"model-0000{j}-of-00003.safetensors" for j in (1, 2, 3))]
    assert [path.name for path in checkpoint.files] == names
    for name, tensor in QuipCheckpoint(folder).layer(0).items():
        assert torch.equal(checkpoint.layer(0)[name], tensor)


def test_what_older_configurations_leave_out(tmp_path):
    """As many key and value heads as heads, base 10000: as in LLaMA-1."""
    short = write_checkpoint(tmp_path / "short")
    full = write_checkpoint(tmp_path / "full", {**CONFIG, "num_key_value_heads": 4, "rope_theta": 10000.0})
    assert torch.equal(*(QuipLlama(QuipCheckpoint(path)).hidden(ids(1, 8)) for path in (short, full)))


CONFIG_FAULTS = [
    ({"quip_params": None}, "config.json: quip_params: "),
    ({"quip_params": {**PARAMS[2], "lora_rank": 8}}, r"config.json: quip_params.lora_rank: .*\(found 8\)"),
    ({"model_type": "mistral"}, r"config.json: model_type: .*\(found 'mistral'\)"),
    ({"hidden_act": "gelu"}, "config.json: hidden_act: "),
    ({"rope_scaling": {"type": "linear", "factor": 2}}, "config.json: rope_scaling: "),
    ({"num_attention_heads": 5}, "hidden_size 64 is not an even multiple of num_attention_heads 5"),
    ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
    ({"head_dim": 32}, "head_dim 32 is not"),
    ({"intermediate_size": 11 * 64}, "mlp.upgate_proj: output width 1408 has no Hadamard matrix"),
    (
        {"intermediate_size": 256},
        r"0.mlp.upgate_proj.Qidxs' is I64 of shape \[384, 3\], expected I64 of shape \[512, 3\]",
    ),
    ({"num_hidden_layers": 3}, "tensor 'model.layers.2.input_layernorm.weight' is missing"),
    ({"num_hidden_layers": 1}, "tensor 'model.layers.1.input_layernorm.weight' is not one of"),
    ({"vocab_size": 40}, r"tensor 'model.embed_tokens.weight' is F16 of shape \[37, 64\], expected F16 of shape \[40, 64\]"),
    ({"quip_params": PARAMS[2]}, "Qidxs' is I64 of shape"),
]


@pytest.fixture(scope="module")
def tensors():
    return random_tensors(CONFIG)


@pytest.mark.parametrize("fault, message", CONFIG_FAULTS)
def test_configurations_that_do_not_fit(tmp_path, tensors, fault, message):
    with pytest.raises(InputError, match=message) as caught:
        QuipCheckpoint(write_checkpoint(tmp_path, {**CONFIG, **fault}, tensors))
    assert "\n" not in str(caught.value)


def test_files_that_do_not_fit(tmp_path, tensors):
    def fails(message):
        with pytest.raises(InputError, match=message) as caught:
            QuipCheckpoint(tmp_path)
        assert "\n" not in str(caught.value)

    write_checkpoint(tmp_path, tensors=tensors, shards=2)
    index, second = tmp_path / "model.safetensors.index.json", tmp_path / "model-00002-of-00002.safetensors"
    whole, text = second.read_bytes(), index.read_text()
    second.write_bytes(whole[:-1])
    fails("model-00002-of-00002.safetensors: not a whole safetensors file")
    second.write_bytes(b"version https://git-lfs")
    fails("model-00002-of-00002.safetensors: not a whole safetensors file")
    second.unlink()
    fails("model-00002-of-00002.safetensors: no such file")
    save_file({"model.norm.weight": tensors["model.norm.weight"]}, second)
    fails(r"model-00002-of-00002.safetensors: tensor '.*' is missing, expected there by model.safetensors.index.json")
    second.write_bytes(whole)
    for name in ("../model.safetensors", "model.bin", 3):
        index.write_text(text.replace('"model-00002-of-00002.safetensors"', json.dumps(name)))
        fails("is not the name of a .safetensors file in the same folder")
    index.write_text("{}")
    fails("model.safetensors.index.json: no weight_map")
    index.unlink()
    fails("model.safetensors: no such file")


def test_a_nan_is_found_when_its_tensor_is_read(tmp_path, tensors):
    broken = {name: tensor.clone() for name, tensor in tensors.items()}
    broken["model.layers.1.self_attn.o_proj.SV"][2] = math.nan
    broken["lm_head.weight"][0, 0] = math.inf
    checkpoint = QuipCheckpoint(write_checkpoint(tmp_path, tensors=broken))
    checkpoint.layer(0)
    with pytest.raises(InputError, match=r"model.layers.1.self_attn.o_proj: tensor 'SV' holds 1 values that are NaN"):
        checkpoint.layer(1)
    with pytest.raises(InputError, match=r"model.safetensors: tensor 'lm_head.weight' holds 1 values"):
        QuipLlama(checkpoint)


def test_the_layout_names_every_tensor(folder):
    model = QuipLlama(QuipCheckpoint(folder))
    stored = load_file(folder / "model.safetensors")
    assert dict(model.layout()) == {name: tuple(tensor.shape) for name, tensor in stored.items()}
    assert QuipParams.model_validate(model.config.quip_params) == model.config.quip_params


@pytest.mark.parametrize("name", ["tiny_e8p12", "tiny_rvq3b"])
def test_whole_checkpoints_of_the_reference(shared, name):
    folder = shared / "vectors/quip" / name
    expected = load_file(folder / "expected.safetensors")
    model = QuipLlama(QuipCheckpoint(folder))
    logits = model.head(model.hidden(expected["input_ids"]))
    # The files' stated tolerances; the reference's own arithmetic is in float16.
    for key, tolerance in (("logits_dense_fp32", 1e-4), ("logits_ref_act32", 2e-2), ("logits_ref_fp16", 3e-2)):
        assert (logits - expected[key]).abs().max() <= tolerance, key
