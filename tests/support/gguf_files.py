"""Small GGUF files, written by package ``gguf`` as llama.cpp's converter writes them."""

import gguf
import numpy as np

WIDTH, INNER, LAYERS, HEADS, KV_HEADS, CONTEXT = 64, 96, 2, 4, 2, 32
EOS, BOS = 1, 2
_BYTES = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))]
# All bytes as a byte-level vocabulary spells them, two merges, and special tokens.
TOKENS = ["<unk>", "<end>", "<start>", *_BYTES, *(chr(256 + n) for n in range(68)), "th", "the"]
MERGES = ["t h", "th e"]


def write_gguf(
    path, kind=gguf.GGMLQuantizationType.F16, *, architecture="llama", add_bos=True, seed=0, **keys
):
    """Write a tiny LLaMA whose matrices are of type `kind`; `keys` replace metadata (None leaves one out).

    Returns
    -------
    dict of str to ndarray
        The tensors of the file in float32, as they are read back.
    """
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = keys.get("tokens", TOKENS)
    if tokens is not None:
        writer.add_token_list(tokens)
        types = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * (len(tokens) - 3)
        writer.add_token_types(types)
        writer.add_token_merges(MERGES)
    writer.add_bos_token_id(BOS)
    if (eos := keys.get("eos", EOS)) is not None:
        writer.add_eos_token_id(eos)
    writer.add_add_bos_token(add_bos)
    kept = {}
    for name, shape in layout():
        values = (rng.standard_normal(shape) * 0.1).astype(np.float32)
        if len(shape) == 1:
            values = 1 + values
            writer.add_tensor(name, values)
            kept[name] = values
            continue
        stored = gguf.quantize(values, kind)
        writer.add_tensor(name, stored, raw_dtype=kind)
        kept[name] = gguf.dequantize(stored, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return kept


def layout():
    """List (name, shape) of the tensors, as llama.cpp names them."""
    kv = WIDTH // HEADS * KV_HEADS
    tensors = [("token_embd.weight", (len(TOKENS), WIDTH)), ("output_norm.weight", (WIDTH,))]
    for layer in range(LAYERS):
        tensors += [
            (f"blk.{layer}.{name}.weight", shape)
            for name, shape in (
                ("attn_norm", (WIDTH,)),
                ("attn_q", (WIDTH, WIDTH)),
                ("attn_k", (kv, WIDTH)),
                ("attn_v", (kv, WIDTH)),
                ("attn_output", (WIDTH, WIDTH)),
                ("ffn_norm", (WIDTH,)),
                ("ffn_gate", (INNER, WIDTH)),
                ("ffn_up", (INNER, WIDTH)),
                ("ffn_down", (WIDTH, INNER)),
            )
        ]
    return tensors
