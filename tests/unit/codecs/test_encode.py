"""Models of the transformers library and lattice codes, from training to a message that decodes."""

import json

import numpy as np
import pretrained
import pytest
import torch
from support.messages import contexts_of
from support.stores import random_documents, write_store

from tokenbounds.codecs.calibration import lattice_tensors
from tokenbounds.codecs.decode import decode_message, model_of, tensors_of
from tokenbounds.codecs.encode import code_model
from tokenbounds.codecs.frame import encode
from tokenbounds.codecs.lattice import Quantized, reconstruct
from tokenbounds.config.schema import Corpus
from tokenbounds.corpus.tokenizers import prepare_tokenizer
from tokenbounds.errors import InputError
from tokenbounds.io.files import read_json
from tokenbounds.models.folders import load_model
from tokenbounds.models.gpt import GPT
from tokenbounds.models.registry import layout_of
from tokenbounds.training.loop import train

VOCAB = 64
CONTEXTS = contexts_of(("token", 16))
LLAMA = {
    "family": "transformers",
    "corpus": "text",
    "context_length": 16,
    "transformers": {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 16,
        "initializer_range": 0.1,
    },
    "training": {
        "steps": 12,
        "batch_size": 4,
        "learning_rate": 1e-2,
        "warmup": 2,
        "eval_every": 6,
        "eval_batches": 2,
        "dtype": "float32",
    },
}
LATTICE = {
    "kind": "lattice",
    "bits": 2,
    "levels": 25,
    "method": "kmeans",
    "codebook": "tensor",
    "tokens": 512,
    "tuning_rounds": 1,
}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return write_store(
        tmp_path_factory.mktemp("tokens"),
        random_documents(np.random.default_rng(1), 200, vocab_size=VOCAB),
        VOCAB,
    )


def trained(tokens, folder, model=LLAMA, **options):
    stores = {"train_tokens": tokens, "val_tokens": tokens}
    return train(
        model,
        name="llama",
        seed=1,
        **stores,
        out_dir=folder,
        checkpoint_dir=folder / "checkpoints",
        device="cpu",
        **options,
    )


@pytest.fixture(scope="module")
def llama(tokens, tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    trained(tokens, folder)
    return folder


def test_a_trained_llama_is_a_checkpoint_of_its_family(llama):
    model, config = load_model(llama)
    assert config["family"] == "transformers" and config["transformers"]["num_key_value_heads"] == 1
    assert dict(model.layout())["model.layers.0.self_attn.k_proj.weight"] == (16, 32)


def test_fine_tuning_starts_from_the_other_model(tokens, llama, tmp_path):
    first = trained(
        tokens,
        tmp_path / "a",
        {**LLAMA, "training": {**LLAMA["training"], "steps": 1, "warmup": 0, "learning_rate": 1e-9}},
    )
    last = trained(
        tokens,
        tmp_path / "b",
        {**LLAMA, "training": {**LLAMA["training"], "steps": 1, "warmup": 0, "learning_rate": 1e-9}},
        start_from=llama,
    )
    assert last["val_loss_nats"] < first["val_loss_nats"] - 0.05
    weights = tensors_of(load_model(llama)[0])
    for name, value in tensors_of(load_model(tmp_path / "b")[0]).items():
        assert np.allclose(value, weights[name], atol=1e-6), name
    other = {**LLAMA, "transformers": {**LLAMA["transformers"], "intermediate_size": 64}}
    with pytest.raises(InputError, match="expected that of the model which starts from it"):
        trained(tokens, tmp_path / "c", other, start_from=llama)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_lattice_message_decodes_to_the_reconstruction(tokens, llama, bits):
    codec = {**LATTICE, "bits": bits}
    data, report = code_model(
        llama, codec, CONTEXTS, name="llama", seed=1, tokens=tokens.folder, device="cpu"
    )
    decoded = decode_message(data)
    model, _ = load_model(llama)
    rng = np.random.Generator(np.random.PCG64(0))
    assert decoded.codec["kind"] == "lattice" and decoded.codec["bits"] == bits
    again = lattice_tensors(
        model,
        tokens,
        bits=bits,
        seed=decoded.codec["seed"],
        count=512,
        length=16,
        rng=rng,
        options={"tuning_rounds": 1},
    )[0]
    on_lattice = [name for name, value in again.items() if isinstance(value, Quantized)]
    # seven matrices of the layer, and the head
    assert report["on_lattice"]["tensors"] == len(on_lattice) == 8
    assert "model.embed_tokens.weight" not in on_lattice
    # another draw of calibration tokens gives other points; what is coded is what is decoded
    layout = layout_of(decoded.config["hypothesis"])
    coded = decode_message(encode(again, decoded.config, codec=decoded.codec, layout=layout))
    for name in on_lattice:
        assert np.array_equal(coded.tensors[name], reconstruct(again[name]))
    ids = torch.randint(0, VOCAB, (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        one, two = (
            each.head(each.hidden(ids)) for each in (model_of(decoded), model_of(decode_message(data)))
        )
    assert torch.equal(one, two)


def test_more_bits_are_a_longer_message_and_a_smaller_error(tokens, llama):
    model, _ = load_model(llama)
    exact = tensors_of(model)
    sizes, errors = [], []
    for bits in (2, 3, 4):
        data, _ = code_model(
            llama,
            {**LATTICE, "bits": bits},
            CONTEXTS,
            name="llama",
            seed=1,
            tokens=tokens.folder,
            device="cpu",
        )
        tensors = decode_message(data).tensors
        sizes.append(len(data))
        errors.append(
            sum(float(((tensors[name] - exact[name]) ** 2).sum()) for name in tensors if "proj" in name)
        )
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)


def test_a_gpt_of_our_own_goes_on_the_lattice(tokens):
    gpt = GPT({"layers": 1, "heads": 2, "width": 32, "context_length": 16}, VOCAB).initialize(3)
    tensors, _ = lattice_tensors(
        gpt,
        tokens,
        bits=4,
        seed=5,
        count=256,
        length=16,
        rng=np.random.default_rng(1),
        options={"tuning_rounds": 0},
    )
    assert sum(isinstance(value, Quantized) for value in tensors.values()) == 4
    assert not isinstance(tensors["embedding.weight"], Quantized)  # also the head: no layer of its own


def test_a_model_without_a_fitting_layer(tokens):
    gpt = GPT({"layers": 1, "heads": 2, "width": 44, "context_length": 16}, VOCAB).initialize(3)
    with pytest.raises(
        InputError, match="none of the model's 4 linear layers has sides with a known Hadamard matrix"
    ):
        lattice_tensors(
            gpt, tokens, bits=4, seed=5, count=256, length=16, rng=np.random.default_rng(1), options={}
        )


def write_tokenizer(folder, size):
    """Write the folder of a tokenizer of so many tokens, of which 0 ends a text."""
    tokens = ["<end>", *(f"<{number}>" for number in range(1, size))]
    section = {"source": {"files": ["a.txt"]}, "tokenizer": {"vocabulary": tokens}, "eot": "<end>"}
    prepare_tokenizer(Corpus.model_validate(section), folder)
    return folder


def test_published_models_are_written_like_trained_ones(llama, tmp_path):
    folder = tmp_path / "published"
    folder.mkdir()
    model, config = load_model(llama)
    model.lm.save_pretrained(folder)
    tokenizer = write_tokenizer(tmp_path / "tokenizer", VOCAB)
    section = {"family": "pretrained", "folder": str(folder), "start_token": "always", "corpus": "text"}
    config_file = [f"{folder}/config.json"]
    pretrained.main(str(tmp_path / "models/m/model.safetensors"), config_file, tokenizer, section)
    loaded, written = load_model(tmp_path / "models/m")
    assert written["start_token"] == "always" and written["context_length"] == 16
    assert written["transformers"] == config["transformers"]
    assert {name: value.tobytes() for name, value in tensors_of(loaded).items()} == {
        name: value.tobytes() for name, value in tensors_of(model).items()
    }
    provenance = read_json(tmp_path / "models/m/config.json")["provenance"]
    assert any(name.endswith("model.safetensors") for name in provenance["inputs"])
    larger = write_tokenizer(tmp_path / "larger", VOCAB + 1)
    with pytest.raises(
        InputError, match="vocabulary has 64 rows, expected at least the tokenizer's 65 tokens"
    ):
        pretrained.main(str(tmp_path / "models/n/model.safetensors"), config_file, larger, section)
    assert not (tmp_path / "models/n").exists()
    manifest = tmp_path / "download.json"
    manifest.write_text(json.dumps({"folder": str(folder), "files": [{"name": "config.json"}]}))
    hub = {**section, "hub": "a/b", "revision": "0" * 40}
    pretrained.main(str(tmp_path / "models/h/model.safetensors"), [str(manifest)], tokenizer, hub)
    assert (tmp_path / "models/h/config.json").exists()
