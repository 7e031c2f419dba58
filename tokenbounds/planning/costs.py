"""Costs of one job: GPU hours, and bytes to download and to store.

GPU hours are floating point operations over what a GPU reaches: 6 N per trained token and 2 N per scored one
[Kaplan et al. 2020, table 1], and the attention's share. Structured layers count as dense ones. Training is
reckoned in bfloat16, all else in float32, in which it is done.
"""

import functools
import math

from tokenbounds.planning.parameter_counts import corpus_vocab_size, models_frame
from tokenbounds.scoring.acceptance import DOCUMENTS, MOST_TOKENS

A100_TERAFLOPS = 312.0  # dense bfloat16, NVIDIA's data sheet
A100_TERAFLOPS_32 = 19.5  # float32
UTILIZATION = 0.3  # training GPT-2 124M on A100s by nanoGPT: 2.9e11 tokens in four days on eight
UTILIZATION_32 = 0.6  # of matrix products in float32; not measured
START_HOURS = 1 / 60  # a GPU job's start: Python, the model, its first batch
RECORD_BYTES = 30  # of one scored item, as stored (measured)


class Costs:
    """Estimates of the cost of each job of a configuration; nan where a size is not known.

    Parameters
    ----------
    config : tokenbounds.config.run.Config
    vocab_size : int, optional
        V of corpora whose tokens are not made and whose tokenizer is neither trained here nor listed.
    teraflops : float
        Peak of one GPU in training, in 1e12 operations per second.
    teraflops_32 : float
        Its peak in float32.
    utilization : float
        Part of the first that training reaches, in (0, 1]; of the second it is `UTILIZATION_32`.
    """

    def __init__(
        self,
        config,
        vocab_size=None,
        teraflops=A100_TERAFLOPS,
        teraflops_32=A100_TERAFLOPS_32,
        utilization=UTILIZATION,
    ):
        self._config = config
        self._vocab_size = vocab_size
        self._trained_per_hour = 3600 * 1e12 * teraflops * utilization
        self._scored_per_hour = 3600 * 1e12 * teraflops_32 * UTILIZATION_32
        self._rules = {
            "train": self._train,
            "message": self._message,
            "alpha_head": self._alpha_head,
            "sanity_check": self._sanity_check,
            "score": self._score,
            "memorization": self._memorization,
            "resample": self._resample,
            "score_resampled": self._score_resampled,
        }

    def gpu_hours(self, job):
        """GPU hours of a job; 0 for one without a GPU."""
        if not job.gpus:
            return 0.0
        per_hour = self._trained_per_hour if job.rule == "train" else self._scored_per_hour
        return self._rules[job.rule](**job.wildcards) / per_hour + START_HOURS

    def download_gigabytes(self, job):
        """Downloaded gigabytes of a job."""
        if job.rule == "download_corpus":
            expected = self._config.corpora[job.wildcards["corpus"]].expected
        elif job.rule == "download_model":
            expected = self._config.models[job.wildcards["model"]].expected
        else:
            return 0.0
        return (expected and expected.gigabytes) or math.nan

    def stored_bytes(self, job):
        """Bytes of a job's results: token shards, weights, messages of dense models, records."""
        config, names = self._config, job.wildcards
        if job.rule == "tokenize":
            return self._shard_bytes(names["corpus"])
        if job.rule in ("train", "pretrained"):
            return 4.0 * self._values(names["model"])
        if job.rule == "message" and (bits := config.codecs[names["codec"]].bits_per_value):
            return self._values(names["model"]) * bits / 8
        if job.rule == "score":
            scheme = config.schemes[names["sampling"]]
            items = scheme.n * (scheme.window or (scheme.context_length if scheme.mode == "document" else 1))
            return RECORD_BYTES * items / config.scoring.parts
        return 0.0

    # ------------------------------------------------------------ operations, by rule

    def _train(self, model, **_):
        training = self._config.models[model].training
        length = max(1, training.sequence_length or self._config.models[model].longest)
        tokens = training.steps * training.batch_size * training.accumulation * length
        return 3 * tokens * self._per_token(model, length)

    def _message(self, model, codec, **_):
        """Operations of a codec that runs the model on training tokens: it tunes on them, or measures."""
        section = self._config.codecs[codec]
        if (tuning := getattr(section, "tuning", None)) is None:
            return getattr(section, "tokens", math.nan) * self._per_token(model)
        length = self._config.models[model].longest or 1024
        return 3 * tuning.steps * tuning.batch_size * length * self._per_token(model)

    def _alpha_head(self, model, codec, **_):
        tokens = self._config.codecs[codec].tokens
        return self._context_tokens(model, self._config.sampling, tokens) * self._per_token(model)

    def _sanity_check(self, model, **_):
        return DOCUMENTS * MOST_TOKENS * self._per_token(model)

    def _score(self, model, sampling, **_):
        scheme = self._config.schemes[sampling]
        tokens = self._context_tokens(model, scheme, scheme.n)
        return tokens * self._per_token(model) / self._config.scoring.parts

    def _memorization(self, figure, model, **_):
        section = self._config.models[model]
        source = self._config.corpora[section.corpus].source.sequences
        # 984 for complexity 4; their numbers grow about fivefold
        sequences = 1000 * 6 ** max(0, source.complexity - 4)
        levels = len(self._config.figures[figure].levels)
        return levels * sequences * section.longest * self._per_token(model)

    def _resample(self, figure, model, sampling, **_):
        section = self._config.figures[figure]
        tokens = self._context_tokens(model, self._config.schemes[sampling], section.draws)
        return section.tokens * tokens * self._per_token(model)

    def _score_resampled(self, figure, **_):
        section = self._config.figures[figure]
        scheme = self._config.schemes[self._config.scheme_of(section.generator)]
        # The resampled tokens, once more with another tokenizer, and each downstream corpus.
        rounds = 2 + len(section.corpora)
        return sum(
            rounds * self._context_tokens(model, scheme, section.draws) * self._per_token(model)
            for model, _ in section.hypotheses()
        )

    # ------------------------------------------------------------ sizes

    def _context_tokens(self, model, scheme, items):
        """Most tokens that a model is given when it scores so many items."""
        longest = self._config.models[model].longest
        length = scheme.context_length if longest is None else min(longest, scheme.context_length)
        return items * max(1, length)

    def _per_token(self, name, length=None):
        """Operations of one token's forward pass: 2 N and the attention's 4 L w T; nan where N is not known,
        0 for models that only count."""
        model = self._config.models[name]
        if model.published:  # attention is a few hundredths more, of GPT-2 small a seventh
            return 2.0 * (model.expected.parameters if model.expected else math.nan)
        if not model.trained:
            return 0.0
        layers, width = _shape(model)
        return 2.0 * self._counts.at[name, "dense"] + 4.0 * layers * width * (length or model.longest or 1024)

    def _values(self, name):
        """Values that a model's message codes, nan where their number is not known."""
        model = self._config.models[name]
        if model.published:
            return model.expected.parameters if model.expected else math.nan
        return self._counts.at[name, "trainable"]

    def _shard_bytes(self, name):
        """Bytes of a shard of tokens."""
        corpus = self._config.corpora[name]
        if corpus.expected is None:  # what is made here is small
            antibodies = corpus.source.antibodies
            made_here = not (corpus.source.hub or corpus.source.files)
            return 0.0 if made_here and (antibodies is None or antibodies.synthetic) else math.nan
        size = corpus_vocab_size(self._config, name) or self._vocab_size or 0
        return corpus.expected.tokens / corpus.shards * (2 if size <= 65536 else 4)

    @functools.cached_property
    def _counts(self):
        """Numbers of parameters by model, nan where V is not known."""
        frame = models_frame(self._config, self._vocab_size).set_index("model")
        return frame[["trainable", "dense"]].astype(float)


def _shape(model):
    """Layers and width of a trained transformer; 0 where its section does not say."""
    if (architecture := getattr(model, "architecture", None)) is not None:
        return architecture.layers, architecture.width
    options = getattr(model, "transformers", {})
    return tuple(options.get(key, 0) for key in ("num_hidden_layers", "hidden_size"))
