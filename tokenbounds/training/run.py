"""One training in progress: its parts, and each of the things that its loop does."""

import contextlib
import logging
import math
import time
from dataclasses import dataclass

import torch

from tokenbounds.config.schema.models import TrainedSection
from tokenbounds.devices import choose_device, choose_dtype
from tokenbounds.errors import InputError
from tokenbounds.io.files import config_hash
from tokenbounds.io.provenance import provenance
from tokenbounds.models.folders import load_model, save_model
from tokenbounds.models.registry import new_model
from tokenbounds.randomness import stream_seed
from tokenbounds.training.batches import Batches
from tokenbounds.training.checkpoints import Checkpoints
from tokenbounds.training.curve import CURVE_COLUMNS, write_curve
from tokenbounds.training.distributed import SIGTERM_STATUS, Group, in_parallel, on_sigterm
from tokenbounds.training.optimizer import adamw, learning_rate
from tokenbounds.training.progress import Progress

log = logging.getLogger(__name__)


@dataclass
class Run:
    """One training in progress; `resume_or_start` makes it.

    Attributes
    ----------
    name, seed, model
        As for `tokenbounds.training.loop.train`; `model` is checked.
    group : Group
        The processes that train together.
    batches : Batches
    net : torch.nn.Module
        Its weights are those after ``state["step"]`` steps.
    hypothesis : dict
        The configuration that `net` is built from.
    optimizer : torch.optim.Optimizer
    checkpoints : Checkpoints
    state : dict
        All that a checkpoint holds besides tensors: `step`, `dtype`, `curve` (rows as `CURVE_COLUMNS`),
        `loss_sum` over the `loss_steps` steps since its last row, `seconds` of training.
    """

    name: str
    seed: int
    model: TrainedSection
    group: Group
    batches: Batches
    net: torch.nn.Module
    hypothesis: dict
    optimizer: torch.optim.Optimizer
    checkpoints: Checkpoints
    state: dict

    @classmethod
    def resume_or_start(
        cls, model, *, name, seed, train_tokens, val_tokens, checkpoint_dir, start_from=None, device="auto"
    ):
        """Build a model and its optimizer, and put the last checkpoint into them, if there is one.

        Parameters
        ----------
        model : tokenbounds.config.schema.TrainedSection
        name, seed, train_tokens, val_tokens, checkpoint_dir, start_from, device
            As for `tokenbounds.training.loop.train`.

        Returns
        -------
        Run

        Raises
        ------
        InputError
            Too few tokens for one sequence, a checkpoint of another training, a first model of another
            configuration.
        """
        options, length = model.training, model.training.sequence_length or model.longest
        _check_lengths(name, length, train_tokens, val_tokens)
        group, device = Group(), choose_device(device)
        batch = {"batch_size": options.batch_size, "length": length, "device": device}
        batches = Batches(train_tokens, val_tokens, seed=seed, name=name, **batch)
        vocabulary = {"vocab_size": train_tokens.vocab_size, "eot_id": train_tokens.eot_id}
        hypothesis = {**model.hypothesis(), **vocabulary}
        net, hypothesis = new_model(hypothesis, stream_seed(seed, "init", name), f"model '{name}'")
        if start_from is not None:
            _start_from(net, hypothesis, start_from)
        net = net.to(device).train()
        optimizer = adamw(net, options)
        identity = [_deciding(model), name, seed, hypothesis, train_tokens.m, val_tokens.m]
        checkpoints = Checkpoints(checkpoint_dir, config_hash(identity))
        state = _first_state(checkpoints.load(net, optimizer), group, checkpoint_dir)
        if state["dtype"] is None:
            # Measured once, by the first process: a continued training must not find another.
            low = group.sum([group.is_first and choose_dtype(device, options.dtype) is torch.bfloat16])[0]
            state["dtype"] = "bfloat16" if low else "float32"
        return cls(name, seed, model, group, batches, net, hypothesis, optimizer, checkpoints, state)

    def __post_init__(self):
        self.options, self.device = self.model.training, self.batches.device
        self.parameter_count = sum(p.numel() for p in self.net.parameters() if p.requires_grad)
        self.step_tokens = self.batches.tokens * self.options.accumulation
        log.info(
            "model %s: %d parameters on %s in %s, %d processes, steps %d to %d of %d tokens",
            *(self.name, self.parameter_count, self.device, self.state["dtype"], self.group.size),
            *(self.state["step"] + 1, self.options.steps, self.step_tokens),
        )
        low = self.state["dtype"] == "bfloat16"
        self.autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=low)
        compiled = torch.compile(self.net) if self.device.type == "cuda" else self.net
        self.wrapped = in_parallel(compiled, self.group, self.device)

    @contextlib.contextmanager
    def attended(self):
        """Run the clock, show progress and take note of SIGTERM, within."""
        start, steps = self.state["step"], self.options.steps
        self._started, self._saved = time.monotonic() - self.state["seconds"], time.monotonic()
        with (
            on_sigterm() as self._sigterm,
            Progress(self.name, start, steps, self.step_tokens, self.group.is_first) as self._progress,
        ):
            yield

    def steps(self):
        """Return the numbers of the steps that are left."""
        return range(self.state["step"] + 1, self.options.steps + 1)

    def update(self, step):
        """Take one optimizer step on the gradients of all processes.

        Raises
        ------
        InputError
            The loss or the gradient is not finite.
        """
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = learning_rate(self.options, step)
        losses = self._backward(step)
        waited = time.monotonic() - self._saved
        due = self.group.is_first and waited > 60 * self.options.checkpoint_minutes
        # One message for all that the processes must agree on.
        *losses, self._stopping, self._due = self.group.sum([*losses.tolist(), self._sigterm.is_set(), due])
        self._loss = sum(losses) / self.options.accumulation
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.options.grad_clip).item()
        for quantity, value in (("loss", self._loss), ("gradient norm", norm)):
            if not math.isfinite(value):
                expected = "expected a finite number (lower learning_rate?)"
                raise InputError(f"model '{self.name}': {quantity} {value} at step {step}, {expected}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        sums = {"loss_sum": self.state["loss_sum"] + self._loss, "loss_steps": self.state["loss_steps"] + 1}
        self.state |= {"step": step, **sums, "seconds": time.monotonic() - self._started}

    def _backward(self, step):
        """Add up this process's gradients; return the losses of its micro-batches, 0 for those of others."""
        count, size = self.options.accumulation, self.group.size
        losses = torch.zeros(count, dtype=torch.float64, device=self.device)
        share = self.group.share(count)
        for micro in share:
            final = size == 1 or micro == share[-1]  # the processes exchange gradients once a step
            with contextlib.nullcontext() if final else self.wrapped.no_sync():
                loss = self._loss_of(step, micro)
                (loss * (size / count)).backward()  # the gradient is the mean over the processes
            losses[micro] = loss.detach()
        return losses

    def _loss_of(self, step, micro):
        ids, targets = self.batches.training(step, micro)
        dropout = self.batches.dropout(step, micro) if self.model.dropout else contextlib.nullcontext()
        with self.autocast, dropout:
            return self.wrapped(ids, targets)

    def evaluate_if_due(self):
        """Add a row to the curve every `eval_every` steps, and after the last step."""
        step, state = self.state["step"], self.state
        if step % self.options.eval_every and step != self.options.steps:
            return
        with self.autocast:
            val = self._validation_loss() if self.batches.validates else None
        mean, rate = state["loss_sum"] / state["loss_steps"], learning_rate(self.options, step)
        state["curve"].append([step, step * self.step_tokens, mean, val, rate, round(state["seconds"], 1)])
        state |= {"loss_sum": 0.0, "loss_steps": 0}
        val_text = "" if val is None else f", validation {val:.4f}"
        message = "model %s: step %d of %d, nats per token: training %.4f%s"
        log.info(message, self.name, step, self.options.steps, mean, val_text)

    @torch.no_grad()
    def _validation_loss(self):
        """Compute the mean loss in nats over the same `eval_batches` batches each time."""
        count = self.options.eval_batches
        losses = torch.zeros(count, dtype=torch.float64, device=self.device)
        self.net.eval()
        for number in self.group.share(count):
            losses[number] = self.net(*self.batches.validation(number))
        self.net.train()
        return sum(self.group.sum(losses.tolist())) / count

    def show_progress(self):
        """Show the step that was taken, and its loss."""
        self._progress.show(self.state["step"], self._loss)

    def checkpoint_if_due(self):
        """Write a checkpoint every `checkpoint_minutes` and after SIGTERM, but none after the last step.

        Raises
        ------
        SystemExit
            With status 143 after SIGTERM.
        """
        step = self.state["step"]
        if step == self.options.steps or not (self._stopping or self._due):
            return
        if self.group.is_first:
            self.checkpoints.save(self.net, self.optimizer, self.state)
        self.group.wait()  # nobody leaves before it is written
        self._saved = time.monotonic()
        if self._stopping:
            log.info("model %s: stopped by SIGTERM after step %d, checkpoint written", self.name, step)
            raise SystemExit(SIGTERM_STATUS)

    def write(self, out_dir, inputs=()):
        """Write the trained model, its provenance and its curve, and remove the checkpoints.

        Parameters
        ----------
        out_dir, inputs
            As for `tokenbounds.training.loop.train`.

        Returns
        -------
        dict
            The last row of the curve.
        """
        last = dict(zip(CURVE_COLUMNS, self.state["curve"][-1], strict=True))
        if self.group.is_first:
            source = provenance(_deciding(self.model), inputs, **self._facts(last))
            for section in ("architecture", "structure"):
                self.hypothesis.get(section, {}).pop("dropout", None)  # which is no part of a prediction
            save_model(out_dir, self.net, self.hypothesis, source)
            write_curve(out_dir, self.state["curve"])
            self.checkpoints.remove()
        self.group.wait()
        return last

    def _facts(self, last):
        cuda = self.device.type == "cuda"
        return {
            "name": self.name,
            "seed": self.seed,
            "dtype": self.state["dtype"],
            "parameters": self.parameter_count,
            "m_tokens": self.batches.train_tokens.m,
            "device": torch.cuda.get_device_name(self.device) if cuda else str(self.device),
            "final": {key: value for key, value in last.items() if key != "seconds"},
        }


def _check_lengths(name, length, train_tokens, val_tokens):
    """Refuse a training split that is too short for one sequence, and note a validation split that is."""
    if train_tokens.m <= length:
        split = f"the training split has {train_tokens.m} tokens"
        raise InputError(f"model '{name}': {split}, expected more than sequence_length = {length}")
    if val_tokens.m <= length:
        message = "model %s: the validation split has %d tokens, too few for a sequence of %d: no validation"
        log.info(message, name, val_tokens.m, length)


def _start_from(net, hypothesis, folder):
    """Give `net` the weights of the model in `folder`, which must be of the same configuration."""
    other, config = load_model(folder)
    for key in hypothesis | config:
        if key != "start_token" and hypothesis.get(key) != config.get(key):
            expected = "expected that of the model which starts from it"
            raise InputError(f"{folder}: {key} is {config.get(key)!r:.80}, {expected}")
    net.load_state_dict(other.state_dict())


def _deciding(model):
    """Describe a model without what decides nothing about its weights: how often a checkpoint is written."""
    return model.model_dump(exclude={"training": {"checkpoint_minutes"}})


def _first_state(saved, group, checkpoint_dir):
    """Return the state of a checkpoint, or of step 0 without one; all processes must be at the same step."""
    start = {"step": 0, "dtype": None, "loss_sum": 0.0, "loss_steps": 0, "seconds": 0.0, "curve": []}
    state = saved or start
    if group.sum([state["step"]])[0] != group.size * state["step"]:
        problem = "the training processes found different checkpoints, expected the same"
        raise InputError(f"{checkpoint_dir}: {problem}")
    return state
