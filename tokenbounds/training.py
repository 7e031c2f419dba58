"""Pretraining on a token store: AdamW, one process or several, timed checkpoints, exact resume.

A killed training that is started again ends in the same bytes as one that was never killed (on a CPU, with the same number of threads; a
GPU may add in another order and change the last bits). For that, nothing random has state: the batch and the dropout masks of a micro-batch
are functions of the seed, the model's name, the step and the micro-batch's number. Which process computes it changes nothing but rounding.

``python -m tokenbounds.training SPEC.json`` trains what a specification (`Specification`) says, under torchrun as one of its processes.
"""

import contextlib
import csv
import logging
import math
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from tokenbounds.checkpoints import Checkpoints
from tokenbounds.devices import choose_device, choose_dtype
from tokenbounds.errors import InputError
from tokenbounds.files import atomic_path, config_hash, provenance, read_json, write_json
from tokenbounds.models import checked, load_model, new_model, save_model
from tokenbounds.processes import SIGTERM_STATUS, Group, on_sigterm, process_group, torchrun, worker
from tokenbounds.sections import GPTModel, Section, Training, TransformersModel
from tokenbounds.streams import generator, stream_seed

log = logging.getLogger(__name__)

CURVE_COLUMNS = ["step", "tokens", "train_loss_nats", "val_loss_nats", "learning_rate", "seconds"]
_LOG_SECONDS = 30.0


def train(model, *, name, seed, train_tokens, val_tokens, out_dir, checkpoint_dir, start_from=None, device="auto", inputs=()):
    """Train a model from its configuration, or continue from the last checkpoint, and write it.

    Parameters
    ----------
    model : tokenbounds.sections.GPTModel, TransformersModel, or dict
        Family, architecture and training options.
    name : str
        The model's name; with `seed` it names the random streams.
    seed : int
        The run's seed.
    train_tokens, val_tokens : tokenbounds.corpus.TokenStore
        Or anything with ``m`` (tokens), ``vocab_size``, ``eot_id`` and ``tokens(start, stop)``.
    out_dir : path
        Gets ``model.safetensors``, ``config.json`` (hypothesis and provenance), ``curve.csv`` and ``curve.png``, when all is done.
    checkpoint_dir : path
        A folder of this training alone; its checkpoints are removed when all is done.
    start_from : path, optional
        Folder of a trained model of the same shape: its weights are the first.
    device : str
        A torch device, or ``"auto"``.
    inputs : iterable of path
        Files whose sha256 the provenance records.

    Returns
    -------
    dict
        The last row of the curve: step, tokens seen, losses in nats per token, learning rate, seconds.

    Raises
    ------
    InputError
        Too few tokens for one sequence, a loss or gradient that is not finite, a checkpoint of another training.
    SystemExit
        With status 143 after SIGTERM, once a checkpoint is written.

    Notes
    -----
    The number of threads of a matrix product changes its last bits and is the caller's to set; `run` does.
    """
    model = checked(_section(model), model, f"model '{name}'")
    options, length = model.training, model.training.sequence_length or model.longest
    if train_tokens.m <= length:
        raise InputError(f"model '{name}': the training split has {train_tokens.m} tokens, expected more than sequence_length = {length}")
    validates = val_tokens.m > length
    if not validates:
        log.info("model %s: the validation split has %d tokens, too few for a sequence of %d: no validation", name, val_tokens.m, length)

    group, device = Group(), choose_device(device)
    hypothesis = {**model.hypothesis(), "vocab_size": train_tokens.vocab_size, "eot_id": train_tokens.eot_id}
    net, hypothesis = new_model(hypothesis, stream_seed(seed, "init", name), f"model '{name}'")
    if start_from is not None:
        _start_from(net, hypothesis, start_from)
    net = net.to(device).train()
    optimizer = _optimizer(net, options)
    config = model.model_dump(exclude={"training": {"checkpoint_minutes"}})  # which decides nothing about the weights
    checkpoints = Checkpoints(checkpoint_dir, config_hash([config, name, seed, hypothesis, train_tokens.m, val_tokens.m]))
    state = checkpoints.load(net, optimizer) or {"step": 0, "dtype": None, "loss_sum": 0.0, "loss_steps": 0, "seconds": 0.0, "curve": []}
    if group.sum([state["step"]])[0] != group.size * state["step"]:
        raise InputError(f"{checkpoint_dir}: the training processes found different checkpoints, expected the same")
    if state["dtype"] is None:  # measured once, by the first process: a continued training must not find another
        low = group.sum([group.rank == 0 and choose_dtype(device, options.dtype) is torch.bfloat16])[0]
        state["dtype"] = "bfloat16" if low else "float32"
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=state["dtype"] == "bfloat16")
    numbers = sum(p.numel() for p in net.parameters() if p.requires_grad)
    step_tokens = options.batch_size * options.accumulation * max(length, 1)
    log.info(
        "model %s: %d parameters on %s in %s, %d processes, steps %d to %d of %d tokens",
        *(name, numbers, device, state["dtype"], group.size, state["step"] + 1, options.steps, step_tokens),
    )
    wrapped = torch.compile(net) if device.type == "cuda" else net
    if group.size > 1:
        ids = [device.index] if device.type == "cuda" else None
        # Buffers are constants drawn from the seed, each process its own: nothing to send.
        wrapped = DistributedDataParallel(wrapped, device_ids=ids, gradient_as_bucket_view=True, broadcast_buffers=False)

    started, saved = time.monotonic() - state["seconds"], time.monotonic()
    with on_sigterm() as stop, _Progress(name, state["step"], options.steps, step_tokens, group.rank == 0) as progress:
        for step in range(state["step"] + 1, options.steps + 1):
            rate = learning_rate(options, step)
            for parameters in optimizer.param_groups:
                parameters["lr"] = rate
            losses = torch.zeros(options.accumulation, dtype=torch.float64, device=device)
            mine = range(group.rank, options.accumulation, group.size)
            for micro in mine:
                ids, targets = sample(train_tokens, generator(seed, "data_order", name, step, micro), options.batch_size, length, device)
                with wrapped.no_sync() if group.size > 1 and micro != mine[-1] else contextlib.nullcontext():
                    with autocast, _dropout_stream(model.dropout, device, seed, "dropout", name, step, micro):
                        loss = wrapped(ids, targets)
                    (loss * (group.size / options.accumulation)).backward()  # DDP takes the mean over the processes
                losses[micro] = loss.detach()
            due = group.rank == 0 and time.monotonic() - saved > 60 * options.checkpoint_minutes
            *losses, stopping, due = group.sum([*losses.tolist(), stop.is_set(), due])
            loss = sum(losses) / options.accumulation
            norm = torch.nn.utils.clip_grad_norm_(net.parameters(), options.grad_clip).item()
            for what, value in (("loss", loss), ("gradient norm", norm)):
                if not math.isfinite(value):
                    raise InputError(f"model '{name}': {what} {value} at step {step}, expected a finite number (lower learning_rate?)")
            optimizer.step()
            optimizer.zero_grad()

            state |= {"step": step, "loss_sum": state["loss_sum"] + loss, "loss_steps": state["loss_steps"] + 1}
            state["seconds"] = time.monotonic() - started
            if step % options.eval_every == 0 or step == options.steps:
                with autocast:
                    val = _validate(net, val_tokens, options, length, group, device, seed, name) if validates else None
                mean = state["loss_sum"] / state["loss_steps"]
                state["curve"].append([step, step * step_tokens, mean, val, rate, round(state["seconds"], 1)])
                state |= {"loss_sum": 0.0, "loss_steps": 0}
                val_text = "" if val is None else f", validation {val:.4f}"
                log.info("model %s: step %d of %d, nats per token: training %.4f%s", name, step, options.steps, mean, val_text)
            progress.step(step, loss)
            if (stopping or due) and step < options.steps:
                if group.rank == 0:
                    checkpoints.save(net, optimizer, state)
                group.sum([0])  # nobody leaves before it is written
                saved = time.monotonic()
                if stopping:
                    log.info("model %s: stopped by SIGTERM after step %d, checkpoint written", name, step)
                    raise SystemExit(SIGTERM_STATUS)

    last = dict(zip(CURVE_COLUMNS, state["curve"][-1], strict=True))
    if group.rank == 0:
        facts = {"name": name, "seed": seed, "dtype": state["dtype"], "parameters": numbers, "m_tokens": train_tokens.m}
        facts["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
        facts["final"] = {key: value for key, value in last.items() if key != "seconds"}
        source = provenance(config, inputs, **facts)
        for part in ("architecture", "structure"):  # dropout is no part of a prediction, so none of the hypothesis
            hypothesis.get(part, {}).pop("dropout", None)
        save_model(out_dir, net, hypothesis, source)
        write_curve(out_dir, state["curve"])
        checkpoints.remove()
    group.sum([0])
    return last


def _section(model):
    """The schema of a model that is trained here."""
    family = model.get("family") if isinstance(model, dict) else model.family
    return TransformersModel if family == "transformers" else GPTModel


def _start_from(net, hypothesis, folder):
    """Give `net` the weights of the model in `folder`, which must be of the same configuration."""
    other, config = load_model(folder)
    for key in hypothesis.keys() | config.keys():
        if key != "start_token" and hypothesis.get(key) != config.get(key):
            raise InputError(f"{folder}: {key} is {config.get(key)!r:.80}, expected that of the model which starts from it")
    net.load_state_dict(other.state_dict())


def learning_rate(options: Training, step):
    """Learning rate of a step (1-based): linear to the peak at step `warmup`, then a cosine to `min_learning_rate` at the last step."""
    peak, least = options.learning_rate, options.min_learning_rate
    least = peak / 10 if least is None else least
    if step <= options.warmup:
        return peak * step / options.warmup
    done = (step - options.warmup) / max(1, options.steps - options.warmup)
    return least + (peak - least) * (1 + math.cos(math.pi * done)) / 2


def sample(tokens, rng, batch_size, length, device):
    """Inputs and targets, each (batch_size, length) int64 on `device`: windows at uniform positions of the stream.

    With length 0 they are (batch_size, 1), and the only input is EOT: the start token, after which a model without context predicts.
    """
    starts = rng.integers(0, tokens.m - length, size=batch_size)
    rows = np.stack([tokens.tokens(start, start + length + 1) for start in starts.tolist()]).astype(np.int64)
    if length == 0:
        rows = np.insert(rows, 0, tokens.eot_id, axis=1)
    batch = torch.from_numpy(rows)
    batch = batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch.to(device)
    return batch[:, :-1].contiguous(), batch[:, 1:].contiguous()


def _optimizer(net, options):
    """AdamW with decay on matrices only; fused, which on a CPU and a GPU is the fastest."""
    parameters = list(net.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, options.beta2), fused=True)


@torch.no_grad()
def _validate(net, tokens, options, length, group, device, seed, name):
    """Mean loss in nats over the same `eval_batches` batches each time."""
    losses = torch.zeros(options.eval_batches, dtype=torch.float64, device=device)
    net.eval()
    for number in range(group.rank, options.eval_batches, group.size):
        losses[number] = net(*sample(tokens, generator(seed, "validation", name, number), options.batch_size, length, device))
    net.train()
    return sum(group.sum(losses.tolist())) / options.eval_batches


@contextlib.contextmanager
def _dropout_stream(dropout, device, seed, *names):
    """Within, torch's default generator is the stream `names`; afterwards it is as it was."""
    if not dropout:
        yield
        return
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        number = stream_seed(seed, *names) % 2**63
        torch.default_generator.manual_seed(number)
        if cuda:
            torch.cuda.manual_seed(number)
        yield


class _Progress:
    """A bar on a terminal, otherwise a log line every half minute; silent but on the first process."""

    def __init__(self, name, start, steps, step_tokens, shown):
        self.name, self.start, self.steps, self.step_tokens, self.shown = name, start, steps, step_tokens, shown
        self.bar = tqdm(total=steps, initial=start, desc=name, unit="step", disable=None if shown else True)
        self.begin = self.logged = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()

    def step(self, step, loss):
        now = time.monotonic()
        seconds_per_step = (now - self.begin) / (step - self.start)
        speed = f"{self.step_tokens / seconds_per_step:,.0f} tokens/s"
        self.bar.set_postfix_str(f"loss {loss:.3f}, {speed}", refresh=False)
        self.bar.update()
        if self.shown and self.bar.disable and now - self.logged > _LOG_SECONDS:
            self.logged, left = now, (self.steps - step) * seconds_per_step
            log.info("model %s: step %d of %d, loss %.4f, %s, %.0f s left", self.name, step, self.steps, loss, speed, left)


def write_curve(folder, rows):
    """Write ``curve.csv`` (`CURVE_COLUMNS`; losses in nats per token) and ``curve.png`` from the rows of a training."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display

    with atomic_path(Path(folder) / "curve.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle, lineterminator="\n").writerows([CURVE_COLUMNS, *rows])
    figure = Figure(figsize=(4.2, 2.8), layout="constrained")
    axes = figure.subplots()
    marker = "o" if len(rows) < 20 else None
    for label, column in (("training", 2), ("validation", 3)):
        points = [(row[0], row[column]) for row in rows if row[column] is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker=marker, markersize=3, linewidth=1.2)
    axes.set(xlabel="optimizer step", ylabel="loss (nats per token)")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_path(Path(folder) / "curve.png") as temporary:
        figure.savefig(temporary, format="png", dpi=150)


# ---------------------------------------------------------------- processes


class Specification(Section):
    """What to train, and where."""

    name: str = Field(description="The model's name; it names random streams.")
    seed: int = Field(description="The run's seed.")
    model: Annotated[GPTModel | TransformersModel, Field(discriminator="family")] = Field(description="As in the configuration.")
    train_tokens: str = Field(description="Folder of the token store to train on.")
    val_tokens: str = Field(description="Folder of the token store to validate on.")
    out_dir: str = Field(description="Folder of the trained model.")
    start_from: str | None = Field(None, description="Folder of the model whose weights are the first.")
    checkpoint_dir: str = Field(description="Folder of this training's checkpoints, shared with no other.")
    device: str = Field("auto", description="torch device, or auto: a GPU if there is one.")


def run(spec):
    """Train what a specification says: in this process, or in several started by torchrun, which die with this one.

    Parameters
    ----------
    spec : dict
        See `Specification`.

    Raises
    ------
    InputError
        Also one that was raised in a started process.
    SystemExit
        With status 143 after SIGTERM.
    """
    spec = checked(Specification, spec, "training specification")
    processes = spec.model.training.processes
    if processes == 1:
        _train(spec)
        return
    path = Path(spec.checkpoint_dir) / "spec.json"
    write_json(path, spec.model_dump())
    torchrun("tokenbounds.training", path, processes)


def _train(spec: Specification):
    """Train in this process, alone or as one that torchrun started."""
    from tokenbounds.corpus import TokenStore

    torch.set_num_threads(spec.model.training.threads)
    tokens = {"train_tokens": TokenStore(spec.train_tokens), "val_tokens": TokenStore(spec.val_tokens)}
    folders = {"out_dir": spec.out_dir, "checkpoint_dir": spec.checkpoint_dir, "start_from": spec.start_from}
    indices = [Path(folder) / "index.json" for folder in (spec.train_tokens, spec.val_tokens)]
    with process_group(spec.model.training.processes, spec.device) as device:
        train(spec.model, name=spec.name, seed=spec.seed, **tokens, **folders, device=device, inputs=indices)


def main(path):
    """Entry of ``python -m tokenbounds.training SPEC.json``; returns the exit status."""
    return worker(lambda: _train(checked(Specification, read_json(path), path)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
