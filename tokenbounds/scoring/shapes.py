"""Shapes in which predictions are computed (docs/theory.md, section 13).

The kernel that multiplies two matrices, and with it the last bits of a prediction, depends on their shapes.
The shape in which a token is computed is therefore a function of what stands before its first scored token
only::

    fixed length 5, multiple 8     t t t t t 0 0 0     t  token of the input
                                   t t t t t 0 0 0     0  padding, which a causal model cannot see
    a batch of 3 rows              0 0 0 0 0 0 0 0     a dummy row, so that every batch has equally many

The head is applied to the scored positions, gathered over batches to chunks of equally many rows, the last
one filled with zeros.
"""

import contextlib

import numpy as np
import torch
from tqdm import tqdm

from tokenbounds.devices import arithmetic_of, torch_dtype
from tokenbounds.errors import InputError

# Most logits held at once. On a CPU 4 MiB stay in the cache, which is three times as fast as 128 MiB; a GPU
# wants few large steps.
_HEAD_ELEMENTS_CPU = 2**20
_HEAD_ELEMENTS_GPU = 2**26
_HEAD_MULTIPLE = 16  # rows of a chunk: kernels treat rows beyond a multiple of theirs differently


def padded_length(length, multiple, longest=None):
    """Compute the length to which an input is padded.

    Parameters
    ----------
    length : int
        Fixed length of the item (see `tokenbounds.corpus.contexts.Item`).
    multiple : int
        Inputs are padded to the next multiple of so many tokens.
    longest : int, optional
        Longest input of the model, which cuts off the last multiple.
    """
    above = -(-length // multiple) * multiple
    return above if longest is None else min(above, longest)


def longest_input(model):
    """Return the longest input in tokens that a model takes, or None without a limit."""
    return getattr(model, "longest", None)


def head_rows(vocab_size, device):
    """Compute the number of rows to which the head is applied at once."""
    elements = _HEAD_ELEMENTS_CPU if device.type == "cpu" else _HEAD_ELEMENTS_GPU
    return max(1, elements // vocab_size // _HEAD_MULTIPLE) * _HEAD_MULTIPLE


def batches(inputs, lengths, arithmetic, *, longest=None, name="model", rng=None):
    """Arrange inputs in batches: all of one padded length have equally many rows.

    Longest first, so that memory is at its peak at once and not after an hour.

    Parameters
    ----------
    inputs : list of ndarray of int64, shape (T_i,)
    lengths : list of int
        Their fixed lengths, at least their own.
    arithmetic : dict
        ``multiple`` and ``batch_tokens`` of `tokenbounds.config.schema.Arithmetic`.
    longest : int, optional
        Longest input of the model.
    name : str
        Name of the model, for errors.
    rng : numpy.random.Generator, optional
        Puts the inputs of a padded length in a random order and into random rows, with random tokens of all
        inputs in the dummy rows: none of this may change a prediction.

    Yields
    ------
    numbers : ndarray of int64, shape (n,)
        The inputs of a batch; each occurs once in all.
    rows : ndarray of int64, shape (n,)
        Their rows.
    ids : ndarray of int64, shape (B, T)
        B is a function of T.

    Raises
    ------
    InputError
        An input is longer than its fixed length or than the model's longest input.
    """
    shapes = np.array(
        [padded_length(length, arithmetic["multiple"], longest) for length in lengths], np.int64
    )
    sizes = np.array([ids.size for ids in inputs], np.int64)
    if (long := np.flatnonzero(sizes > shapes)).size:
        size, shape = sizes[long[0]], shapes[long[0]]
        raise InputError(f"{name}: an input of {size} tokens; expected at most {shape}, its padded length")
    pool = None if rng is None else np.concatenate(inputs)
    for T in np.unique(shapes)[::-1].tolist():
        group, count = np.flatnonzero(shapes == T), max(1, arithmetic["batch_tokens"] // T)
        if rng is not None:
            group = rng.permutation(group)
        for start in range(0, group.size, count):
            numbers, ids = group[start : start + count], np.zeros((count, T), np.int64)
            rows = np.arange(numbers.size)
            if rng is not None:
                ids, rows = rng.choice(pool, size=(count, T)), rng.permutation(count)[: numbers.size]
                ids[rows] = 0
            for row, number in zip(rows, numbers, strict=True):
                ids[row, : sizes[number]] = inputs[number]
            yield numbers, rows, ids


@torch.inference_mode()
def scored_logits(model, inputs, lengths, columns, *, arithmetic, name="model", progress=False, rng=None):
    """Compute the logits after chosen tokens of inputs, in the shapes of `arithmetic`.

    Parameters
    ----------
    model : module
        With ``hidden(ids (B, T)) -> (B, T, W)`` and ``head(hidden) -> logits (..., V)`` over the V real
        tokens, and perhaps ``longest``, its longest input.
    inputs, lengths, arithmetic, name, rng
        As for `batches`; `arithmetic` also has the ``dtype``, which the model's weights must have.
    columns : list of ndarray of int64, shape (Q_i,)
        For each input the tokens after which a prediction is read.
    progress : bool
        Show a bar on a terminal, log a timed line otherwise.

    Yields
    ------
    places : ndarray of int64, shape (n,)
        Numbers of predictions, counted over all inputs in order; each occurs once in all.
    hidden : Tensor, shape (rows, W)
        Final states; the first n of them belong to `places`.
    logits : Tensor of float32, shape (rows, V)
        Their logits.

    Raises
    ------
    InputError
        As for `batches`; the arithmetic is not that of the device or of the weights; a batch does not fit
        into memory.
    """
    device, dtype = next(model.parameters()).device, torch_dtype(arithmetic["dtype"])
    _check_weights(model, dtype, name)
    model.eval()
    starts = np.cumsum([0, *(chosen.size for chosen in columns)])
    groups = list(batches(inputs, lengths, arithmetic, longest=longest_input(model), name=name, rng=rng))
    step, waiting = None, []
    with arithmetic_of(arithmetic["dtype"], device):
        for numbers, rows, ids in tqdm(
            groups, desc=f"score {name}", unit="batch", disable=None if progress else True
        ):
            counts = [columns[number].size for number in numbers]
            row = torch.from_numpy(np.repeat(rows, counts)).to(device)
            column = torch.from_numpy(np.concatenate([columns[number] for number in numbers])).to(device)
            found = np.concatenate([np.arange(starts[i], starts[i + 1]) for i in numbers])
            with _memory_errors_named(name, ids.shape, device):
                hidden = model.hidden(torch.from_numpy(ids).to(device))[row, column]  # (Q, W)
            step = step or head_rows(model.head(hidden[:1]).shape[-1], device)
            waiting.append((found, hidden))
            if sum(len(part) for part, _ in waiting) >= step:
                places, hidden = _joined(waiting)
                whole = len(places) // step * step
                for start in range(0, whole, step):
                    chunk = slice(start, start + step)
                    yield places[chunk], hidden[chunk], model.head(hidden[chunk]).float()
                waiting = [(places[whole:], hidden[whole:])]
        places, hidden = _joined(waiting)
        if len(places):
            hidden = torch.cat([hidden, hidden.new_zeros((step - len(places), *hidden.shape[1:]))])
            yield places, hidden, model.head(hidden).float()


def _joined(parts):
    """Join the places and the states of several batches."""
    if not parts:
        return np.zeros(0, np.int64), None
    places, hidden = zip(*parts, strict=True)
    return np.concatenate(places), torch.cat(hidden)


def _check_weights(model, dtype, name):
    """Raise an `InputError` unless the floating-point weights of a model have the type of its arithmetic."""
    for weight, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.dtype != dtype and "alpha_head." not in weight:
            raise InputError(
                f"{name}: weight '{weight}' is {parameter.dtype}; expected {dtype}, the model's arithmetic"
            )


@contextlib.contextmanager
def _memory_errors_named(name, shape, device):
    """Turn an error of lack of memory into an `InputError`: smaller batches would be another program."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        lacking = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate" in str(error)
        if not lacking:
            raise
        raise InputError(
            f"{name}: a batch of {shape[0]} inputs of {shape[1]} tokens does not fit into the memory of "
            f"{device}; expected a smaller arithmetic.batch_tokens, which is part of the message"
        ) from None
