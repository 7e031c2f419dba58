"""stories260K, a real LLaMA-architecture model in the format of llama2.c: its checkpoint and tokenizer."""

import itertools
import json
import math
import struct

import numpy as np
import tokenizers
import torch
from safetensors.torch import save_file


def stories_checkpoint(path, folder):
    """Convert llama2.c's legacy file to a checkpoint of the transformers library.

    The library's rotary embedding turns the pairs (i, i + D/2), not (2i, 2i + 1), so rows are reordered."""
    data = path.read_bytes()
    width, inner, layers, heads, kv_heads, vocab_size, length = struct.unpack("<7i", data[:28])
    values, offset = np.frombuffer(data, "<f4", offset=28), 0

    def take(*shape):
        nonlocal offset
        part = values[offset : offset + math.prod(shape)].reshape(shape)
        offset += part.size
        return torch.from_numpy(part.copy())

    head, kv_width = width // heads, width // heads * kv_heads

    def half_split(matrix, count):
        return (
            matrix.view(count, head // 2, 2, width).transpose(1, 2).reshape(count * head, width).contiguous()
        )

    tensors = {"model.embed_tokens.weight": take(vocab_size, width)}
    for name, shape in (
        ("input_layernorm", (width,)),
        ("self_attn.q_proj", (width, width)),
        ("self_attn.k_proj", (kv_width, width)),
        ("self_attn.v_proj", (kv_width, width)),
        ("self_attn.o_proj", (width, width)),
        ("post_attention_layernorm", (width,)),
        ("mlp.gate_proj", (inner, width)),
        ("mlp.down_proj", (width, inner)),
        ("mlp.up_proj", (inner, width)),
    ):
        for i, tensor in enumerate(take(layers, *shape)):
            turned = {"self_attn.q_proj": heads, "self_attn.k_proj": kv_heads}.get(name)
            tensors[f"model.layers.{i}.{name}.weight"] = (
                half_split(tensor, turned) if turned else tensor.clone()
            )
    tensors["model.norm.weight"] = take(width)
    assert offset + length * head == values.size
    save_file(tensors, folder / "model.safetensors")
    config = {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    config |= {
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab_size,
        "max_position_embeddings": length,
        "rms_norm_eps": 1e-5,
    }
    config |= {
        "model_type": "llama",
        "tie_word_embeddings": True,
        "rope_theta": 10000.0,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))


def read_pieces(path):
    """Read the pieces of tok512.bin: bytes to (id, score)."""
    data, offset, pieces = path.read_bytes(), 4, {}
    for number in range(512):
        score, size = struct.unpack_from("<fi", data, offset)
        pieces.setdefault(data[offset + 8 : offset + 8 + size], (number, score))
        offset += 8 + size
    return pieces


def encode(text, pieces):
    """Encode as llama2.c: a leading space, characters or else bytes, then repeatedly join the best pair."""
    tokens = [piece for character in " " + text for piece in _start(character.encode(), pieces)]
    while True:
        pairs = [
            (pieces[a + b][1], -i) for i, (a, b) in enumerate(itertools.pairwise(tokens)) if a + b in pieces
        ]
        if not pairs:
            return [pieces[piece][0] if piece in pieces else piece[0] + 3 for piece in tokens]
        i = -max(pairs)[1]
        tokens[i : i + 2] = [tokens[i] + tokens[i + 1]]


def _start(character, pieces):
    return [character] if character in pieces else [bytes([byte]) for byte in character]


def stories_tokenizer(path):
    """Convert tok512.bin to the `tokenizers` library; token 1 is ``<s>``.

    Merges are all ways to join two pieces into a third, the third with the best score first."""
    pieces = {piece.decode("utf-8", "replace"): entry for piece, entry in read_pieces(path).items()}
    names = {number: piece.strip() if number < 3 else piece for piece, (number, _) in pieces.items()}
    joins = [
        (-score, number, (piece[:at], piece[at:]))
        for piece, (number, score) in pieces.items()
        for at in range(1, len(piece))
        if number > 258 and piece[:at] in pieces and piece[at:] in pieces
    ]
    vocabulary = {name: number for number, name in names.items()}
    merges = [pair for _, _, pair in sorted(joins)]
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.normalizer = tokenizers.normalizers.Prepend(" ")
    tokenizer.decoder = tokenizers.decoders.Sequence(
        [tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    )
    return tokenizer
