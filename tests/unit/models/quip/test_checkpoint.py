"""Whole checkpoints: layers in the usual names, shards, and files and configurations that are refused."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.quip_checkpoints import CONFIG, PARAMS, write_checkpoint
from support.quip_reference import plain_dequantize

from tokenbounds.errors import InputError
from tokenbounds.models.quip.checkpoint import QuipCheckpoint
from tokenbounds.models.quip.llama import QuipLlama


def test_a_layer_in_the_usual_names(folder):
    checkpoint, stored = QuipCheckpoint(folder), load_file(folder / "model.safetensors")
    layer = checkpoint.layer(1)
    shapes = {
        "q_proj": (64, 64),
        "k_proj": (32, 64),
        "v_proj": (32, 64),
        "o_proj": (64, 64),
        "down_proj": (64, 192),
    }
    shapes |= {
        "up_proj": (192, 64),
        "gate_proj": (192, 64),
        "input_layernorm": (64,),
        "post_attention_layernorm": (64,),
    }
    assert {name: tuple(tensor.shape) for name, tensor in layer.items()} == shapes
    assert all(tensor.dtype == torch.float32 for tensor in layer.values())

    def plain(name, fuse_sizes):
        prefix = f"model.layers.1.{name}."
        return plain_dequantize(
            {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)},
            3,
            2.04,
            fuse_sizes,
        )

    qkv, upgate = plain("self_attn.qkv_proj", (64, 32, 32)), plain("mlp.upgate_proj", (192, 192))
    for name, expected in (
        ("k_proj", qkv[64:96]),
        ("up_proj", upgate[:192]),
        ("gate_proj", upgate[192:]),
    ):  # up before gate
        np.testing.assert_allclose(layer[name], expected, rtol=0, atol=3e-6 * np.abs(expected).max())
    with pytest.raises(IndexError):
        checkpoint.layer(2)


def test_shards_of_the_index_and_no_others(folder, tmp_path):
    config, tensors = (
        json.loads((folder / "config.json").read_text()),
        load_file(folder / "model.safetensors"),
    )
    sharded = write_checkpoint(tmp_path / "sharded", config, tensors, shards=3)
    save_file(
        {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}, sharded / "model.safetensors"
    )
    save_file({"model.norm.weight": torch.zeros(64).half()}, sharded / "model-00001-of-00002.safetensors")
    checkpoint = QuipCheckpoint(sharded)
    names = [
        "config.json",
        "model.safetensors.index.json",
        *(f"model-0000{j}-of-00003.safetensors" for j in (1, 2, 3)),
    ]
    assert [path.name for path in checkpoint.files] == names
    for name, tensor in QuipCheckpoint(folder).layer(0).items():
        assert torch.equal(checkpoint.layer(0)[name], tensor)


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
    (
        {"vocab_size": 40},
        r"tensor 'model.embed_tokens.weight' is F16 of shape \[37, 64\], expected F16 of shape \[40, 64\]",
    ),
    ({"quip_params": PARAMS[2]}, "Qidxs' is I64 of shape"),
]


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
    fails(
        r"model-00002-of-00002.safetensors: tensor '.*' is missing, "
        r"expected there by model.safetensors.index.json"
    )
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
    with pytest.raises(
        InputError, match=r"model.layers.1.self_attn.o_proj: tensor 'SV' holds 1 values that are NaN"
    ):
        checkpoint.layer(1)
    with pytest.raises(InputError, match=r"model.safetensors: tensor 'lm_head.weight' holds 1 values"):
        QuipLlama(checkpoint)
