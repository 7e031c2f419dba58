"""What a run takes before it starts: jobs, GPU hours and bytes of each table and figure, reckoned from the configuration alone.

The jobs are those of the rules (a test compares them with Snakemake's). GPU hours are floating point operations, 6 N per trained token and
2 N per scored one [Kaplan et al. 2020, table 1] and the attention's share, over what a GPU reaches. Structured layers count as dense ones.
Training is reckoned in bfloat16, all else in float32, in which it is done.
"""

import math
from typing import NamedTuple

import pandas as pd

from tokenbounds import gate
from tokenbounds.inventory import corpus_vocab_size, models_frame
from tokenbounds.sections import PUBLISHED

A100_TERAFLOPS = 312.0  # dense bfloat16, NVIDIA's data sheet
A100_TERAFLOPS_32 = 19.5  # float32
UTILIZATION = 0.3  # training GPT-2 124M on A100s by nanoGPT: 2.9e11 tokens in four days on eight
UTILIZATION_32 = 0.6  # of matrix products in float32; not measured
START_HOURS = 1 / 60  # a GPU job's start: Python, the model, its first batch
RECORD_BYTES = 30  # of one scored item, as stored (measured)


class Job(NamedTuple):
    """A job of the workflow: its rule and what the rule is asked for."""

    rule: str
    of: tuple = ()


class Plan:
    """The jobs behind a configuration's tables and figures, and what they take.

    Parameters
    ----------
    config : tokenbounds.config.Config
    vocab_size : int, optional
        V of corpora whose tokens are not made and whose tokenizer is neither trained here nor listed.
    teraflops : float
        What one GPU can do in training, in 1e12 operations per second.
    teraflops_32 : float
        What it can do in float32.
    utilization : float
        Part of the first that training reaches, in (0, 1]; of the second it is `UTILIZATION_32`.
    results : path
        Folder of the runs.
    """

    def __init__(
        self, config, vocab_size=None, teraflops=A100_TERAFLOPS, teraflops_32=A100_TERAFLOPS_32, utilization=UTILIZATION, results="results"
    ):
        self._config = config
        self._trained_per_hour = 3600 * 1e12 * teraflops * utilization
        self._scored_per_hour = 3600 * 1e12 * teraflops_32 * UTILIZATION_32
        self._vocab = {name: corpus_vocab_size(config, name, results) or vocab_size for name in config.corpora}
        # Numbers of parameters by model, nan where V is not known.
        self._counts = models_frame(config, vocab_size, results).set_index("model")[["trainable", "dense"]].astype(float)

    def outputs(self):
        """Every table and figure with the jobs behind it, its own among them: a dict of name to set of `Job`."""
        config, found = self._config, {}
        for name, table in config.tables.items():
            rule = "text_table" if table.samples else "table"
            found[name] = {Job(rule, (name,))} | self._certificates(table.rows)
            if table.validation_loss:
                found[name] |= _union(self._model(model) for row in table.rows for model in row.model)
        for name, figure in config.figures.items():
            if figure.kind == "meaning":
                shared = self._meaning(name, figure)
                found[figure.table] = shared | {Job("meaning_table", (figure.table,))}
                (entropy,) = config.certificate_names(figure.entropy)
                found[name] = shared | self._scores(*entropy.split(".")) | {Job("meaning_figure", (name,))}
                continue
            models = [model for _, model in figure.models()]
            jobs = self._certificates(config.shown(figure)) | _union(map(self._model, models))
            if figure.kind == "recall":
                jobs |= {Job("recall", (name, model)) for model in models}
            rule = {"size": "figure", "parameters": "figure"}.get(figure.kind, f"{figure.kind}_figure")
            found[name] = jobs | {Job(rule, (name,))}
        return found

    def frame(self):
        """What each table and figure takes, and all together.

        Returns
        -------
        DataFrame
            Columns ``output``, ``jobs``, ``gpu_jobs``, ``gpu_hours``, ``download_gb``, ``results_gb``. Jobs, downloads and files that
            several share count for each; the last line, ``all``, counts them once. Missing where a size is not known before the download
            (key ``expected`` of corpora and published models).
        """
        outputs = self.outputs()
        sets = {**outputs, "all": _union(outputs.values()) | {Job("all")}}
        return pd.DataFrame([{"output": name, **self._takes(jobs)} for name, jobs in sets.items()])

    def rules_frame(self):
        """The same by rule, for all outputs together: columns ``rule``, ``jobs``, ``gpu_jobs``, ``gpu_hours`` and the two of bytes."""
        jobs = _union(self.outputs().values())
        rules = sorted({job.rule for job in jobs})
        return pd.DataFrame([{"rule": rule, **self._takes({job for job in jobs if job.rule == rule})} for rule in rules])

    def _takes(self, jobs):
        hours = [value for job in jobs if (value := self.gpu_hours(job)) != 0]
        return {
            "jobs": len(jobs),
            "gpu_jobs": len(hours),
            "gpu_hours": math.fsum(hours),
            "download_gb": math.fsum(map(self._download, jobs)),
            "results_gb": math.fsum(map(self._stored, jobs)) / 1e9,
        }

    # ------------------------------------------------------------ jobs

    def _certificates(self, rows):
        names = (name for row in rows for name in self._config.certificate_names(row))
        return _union(self._certificate(*name.split(".")) for name in names)

    def _certificate(self, *of):
        return {Job("bound", of)} | self._scores(*of)

    def _scores(self, model, codec, corpus, sampling):
        scores = {Job("score", (model, codec, corpus, sampling, part)) for part in range(self._config.scoring.parts)}
        return scores | self._positions(corpus, sampling) | self._message(model, codec)

    def _message(self, model, codec):
        """The message of a hypothesis, and the gate that a published one has to pass."""
        gates = {Job("gate", (model, codec))} if self._config.models[model].family in PUBLISHED else set()
        return gates | self._coded(model, codec)

    def _coded(self, model, codec):
        found = self._config.codecs[codec]
        if found.kind == "alpha_head":
            return {Job("alpha_head", (model, codec))} | self._coded(model, found.base)
        if found.kind == "zip":
            return {Job("compress", (model, codec))} | self._published(model) | self._train_tokens(self._config.models[model].corpus)
        return {Job("message", (model, codec))} | self._model(model)

    def _model(self, name):
        model = self._config.models[name]
        tokens = self._train_tokens(model.corpus)
        if model.family == "pretrained":
            return {Job("pretrained", (name,))} | self._published(name) | tokens
        if model.family == "markov":
            return {Job("markov", (name,))} | tokens
        start = getattr(model, "start_from", None)
        return {Job("train", (name,)), Job("index", (model.corpus, "val"))} | tokens | (self._model(start) if start else set())

    def _published(self, name):
        return {Job("download_model", (name,))} if self._config.models[name].hub else set()

    def _positions(self, corpus, sampling):
        return {Job("positions", (corpus, sampling))} | self._train_tokens(corpus)

    def _train_tokens(self, corpus):
        shards = {Job("tokenize", (corpus, shard)) for shard in range(self._config.corpora[corpus].shards)}
        return {Job("index", (corpus, "train"))} | shards | self._tokenizer(corpus)

    def _tokenizer(self, name):
        corpus = self._config.corpora[name]
        jobs = {Job("tokenizer", (name,)), Job("documents", (name,))}
        for wanted, rule in (
            (corpus.source.hub, "download_corpus"),
            (corpus.source.sequences, "sequences"),
            (corpus.source.antibodies, "families"),
            (corpus.tokenizer.hub, "download_tokenizer"),
        ):
            if wanted:
                jobs.add(Job(rule, (name,)))
        return jobs | (self._tokenizer(corpus.tokenizer.corpus) if corpus.tokenizer.corpus else set())

    def _meaning(self, name, figure):
        """What is drawn and scored for a figure about the bound's meaning, and for its table."""
        (generator,) = self._config.certificate_names(figure.generator)
        model, codec, corpus, sampling = generator.split(".")
        jobs = {Job("resample", (name, model, codec, corpus, sampling)), Job("score_resampled", (name,))}
        messages = [self._message(model, codec), *(self._message(item.model, item.codec) for item in figure.evaluated)]
        return jobs | _union([*messages, *(self._positions(where, sampling) for where in (corpus, *figure.corpora))])

    # ------------------------------------------------------------ costs

    def gpu_hours(self, job):
        """GPU hours of a job; 0 for one without a GPU."""
        cost = getattr(self, f"_{job.rule}_operations", None)
        if cost is None or (operations := cost(*job.of)) is None:
            return 0
        return operations / (self._trained_per_hour if job.rule == "train" else self._scored_per_hour) + START_HOURS

    def _train_operations(self, name):
        training = self._config.models[name].training
        length = max(1, training.sequence_length or self._config.models[name].longest)
        tokens = training.steps * training.batch_size * training.accumulation * length
        return 3 * tokens * self._per_token(name, length)

    def _message_operations(self, model, codec):
        found = self._config.codecs[codec]
        if found.kind == "lattice":
            return found.tokens * self._per_token(model)
        if (tuning := getattr(found, "tuning", None)) is None:
            return None
        length = self._config.models[model].longest or 1024
        return 3 * tuning.steps * tuning.batch_size * length * self._per_token(model)

    def _alpha_head_operations(self, model, codec):
        return self._fed(model, self._config.sampling, self._config.codecs[codec].tokens) * self._per_token(model)

    def _gate_operations(self, model, codec):
        return gate.DOCUMENTS * gate.MOST_TOKENS * self._per_token(model)

    def _score_operations(self, model, codec, corpus, sampling, part):
        scheme = self._config.schemes[sampling]
        return self._fed(model, scheme, scheme.n) * self._per_token(model) / self._config.scoring.parts

    def _recall_operations(self, figure, model):
        source = self._config.corpora[self._config.models[model].corpus].source.sequences
        sequences = 1000 * 6 ** max(0, source.complexity - 4)  # 984 for complexity 4; their numbers grow about fivefold
        levels = len(self._config.figures[figure].levels)
        return levels * sequences * self._config.models[model].longest * self._per_token(model)

    def _resample_operations(self, figure, model, codec, corpus, sampling):
        found = self._config.figures[figure]
        return found.tokens * self._fed(model, self._config.schemes[sampling], found.draws) * self._per_token(model)

    def _score_resampled_operations(self, name):
        figure = self._config.figures[name]
        scheme = self._config.schemes[self._config.scheme_of(figure.generator)]
        rounds = 2 + len(figure.corpora)  # what was drawn, with another tokenizer once more, and each downstream corpus
        return sum(rounds * self._fed(item.model, scheme, figure.draws) * self._per_token(item.model) for item in figure.evaluated)

    def _fed(self, model, scheme, items):
        """Tokens that a model sees at most when it scores so many items."""
        longest = self._config.models[model].longest
        length = scheme.context_length if longest is None else min(longest, scheme.context_length)
        return items * max(1, length)

    def _per_token(self, name, length=None):
        """Operations of one token's forward pass: 2 N and the attention's 4 L w T; nan where N is not known."""
        model = self._config.models[name]
        if model.family == "markov":
            return 0.0
        if model.family in PUBLISHED:  # attention is a few hundredths more, of GPT-2 small a seventh
            return 2.0 * (model.expected.parameters if model.expected else math.nan)
        if model.family == "gpt":
            layers, width = model.architecture.layers, model.architecture.width
        else:
            layers, width = (model.transformers.get(key, 0) for key in ("num_hidden_layers", "hidden_size"))
        return 2.0 * self._counts.at[name, "dense"] + 4.0 * layers * width * (length or model.longest or 1024)

    def _download(self, job):
        """Downloaded gigabytes of a job."""
        if job.rule not in ("download_corpus", "download_model"):
            return 0.0
        sections = self._config.corpora if job.rule == "download_corpus" else self._config.models
        expected = sections[job.of[0]].expected
        return (expected and expected.gigabytes) or math.nan

    def _stored(self, job):
        """Bytes of a job's results: token shards, weights, messages of dense models, records."""
        config, of = self._config, job.of
        if job.rule == "tokenize":
            corpus, size = config.corpora[of[0]], self._vocab[of[0]]
            if corpus.expected is None:  # what is made here is small
                antibodies = corpus.source.antibodies
                return math.nan if corpus.source.hub or corpus.source.files or (antibodies and not antibodies.synthetic) else 0.0
            return corpus.expected.tokens / corpus.shards * (2 if (size or 0) <= 65536 else 4)
        if job.rule in ("train", "pretrained"):
            return 4.0 * self._values(of[0])
        if job.rule == "message" and config.codecs[of[1]].kind == "levels" and config.models[of[0]].family != "markov":
            return self._values(of[0]) * math.log2(config.codecs[of[1]].levels) / 8
        if job.rule == "score":
            scheme = config.schemes[of[3]]
            items = scheme.n * (scheme.window or (scheme.context_length if scheme.mode == "document" else 1))
            return RECORD_BYTES * items / config.scoring.parts
        return 0.0

    def _values(self, name):
        """Values that a model's message codes, nan where it is not known."""
        model = self._config.models[name]
        if model.family in PUBLISHED:
            return model.expected.parameters if model.expected else math.nan
        return self._counts.at[name, "trainable"]


def _union(sets):
    return set().union(*sets)
