"""The shape of a certificate: which keys it has, and of what kind their values are.

A certificate may come from a stranger. Whoever reads one can rely on the kinds of values that stand here, and
on paths that name files of the run; whether the values are right is for
`tokenbounds.certificates.verify.verify_certificate` to say."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from tokenbounds.certificates.checks import printable
from tokenbounds.config.schema import Bounds, slice_of
from tokenbounds.config.schema.base import Name, Probability
from tokenbounds.errors import InputError
from tokenbounds.io.files import canonical_json

VERSION = 3


class NotWhole(InputError):
    """A certificate of this version whose keys or values are not those of one."""


_NAME = "[A-Za-z0-9][A-Za-z0-9_-]*"
_MOST_COUNT = 2**63 - 1


def _check_text(text):
    """Refuse text that does more to a terminal than print."""
    if not all(character.isprintable() or character in "\n\t" for character in text):
        raise ValueError("a text with characters that cannot be printed")
    return text


Text = Annotated[str, Field(max_length=4000), AfterValidator(_check_text)]
Count = Annotated[int, Field(ge=0, le=_MOST_COUNT)]
Positive = Annotated[int, Field(ge=1, le=_MOST_COUNT)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$", max_length=64)]
Bits = dict[Text, Annotated[float, Field(ge=0)]]
Objects = dict[str, JsonValue]


class _Part(BaseModel):
    """Base of all parts: closed, no value converted, no NaN and no infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def _file(pattern):
    """Return the kind of an entry that names a file of the run, by a pattern of its path, and its sha256."""
    # \Z and not $, which also matches before a line's end
    compiled = re.compile(pattern)

    def check(path):
        if not compiled.fullmatch(path):
            raise ValueError(f"expected a path like {pattern}")
        return path

    return Annotated[str, Field(max_length=1000), AfterValidator(check)]


class _Message(_Part):
    path: _file(rf"messages/{_NAME}\.{_NAME}\.bin")
    sha256: Sha256


class _Index(_Part):
    path: _file(rf"tokens/{_NAME}/train/index\.json")
    sha256: Sha256


class _Records(_Part):
    path: _file(rf"risk/{_NAME}(\.{_NAME}){{3}}/\d{{5,9}}\.parquet")
    sha256: Sha256


class _SanityCheck(_Part):
    path: _file(rf"sanity_checks/{_NAME}\.{_NAME}\.json")
    sha256: Sha256
    bits_per_token: JsonValue
    random_guess: JsonValue
    limit: JsonValue
    limit_is: JsonValue
    documents: JsonValue
    bad: JsonValue


class _Hypothesis(_Part):
    model: Name
    codec: Objects
    config: Objects
    arithmetic: Objects
    alpha_head: Objects | None = None
    message: _Message
    message_bytes: Positive
    message_bits: Positive
    measured_as: Text
    files: list[Objects] | None = None


class _Tokenizer(_Part):
    kind: Text
    sha256: Sha256
    eot: str
    eot_id: Count
    files_sha256: Sha256
    standing: Objects
    bits: Count
    assumes: Text


class _Repeated(_Part):
    context_length: Positive
    full: Count
    repeated: Count
    continued: Count
    share: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    one_in: Positive


class _Corpus(_Part):
    name: Name
    index: _Index
    identity: Sha256
    tokens: Positive
    documents: Positive
    tokenizer: _Tokenizer
    documents_by_role: dict[str, Count]
    documents_left_out: dict[str, Count]
    manifest_sha256: Sha256
    roles_sha256: Sha256
    seen_documents: Count
    duplicate_documents: Count | None
    duplicate_documents_one_in: Positive
    repeated_contexts: _Repeated | None


class _Sampling(_Part):
    name: Name
    mode: Literal["token", "window", "document"]
    context_length: Positive
    window: Positive | None = None
    effective_context_length: Count  # 0 for a model without context
    beacon: Text
    key: Sha256

    @model_validator(mode="after")
    def _check_window(self):
        if (self.window is not None) != (self.mode == "window"):
            raise ValueError("expected a window in mode window, and only there")
        return self


class _ScoredOn(_Part):
    device: Text
    dtype: Text


class _Bound(_Part):
    """`tokenbounds.bounds.result.Bound`, and the method's assumption."""

    value: float
    method: Text
    theorem: Text
    metric: Text
    empirical_risk: float
    complexity_term: float
    subsample_term: float
    capped: bool
    low: float
    high: float
    random_guess: float | None
    delta: float
    delta1: float
    delta2: float
    m: Positive
    n: Positive
    n_pilot: Count
    draw_size: Positive
    choices: dict[Text, float]
    complexity_terms_bits: dict[Text, float]
    assumes: Text


class _Metric(_Part):
    empirical_risk: float
    random_guess: float
    saving_percent: float
    bounds: Annotated[dict[Name, _Bound], Field(min_length=1)]


class _Certificate(_Part):
    certificate: Literal[VERSION]
    name: Annotated[str, Field(pattern=rf"^{_NAME}(\.{_NAME}){{3}}$", max_length=1000)]
    assumes: list[Text]
    delta: Probability
    m: Positive
    n: Positive
    vocab_size: Positive
    choices_bits: Bits
    epsilon_nats: Annotated[float, Field(ge=0)]
    entropy_epsilon_bits: Annotated[float, Field(ge=0)]
    settings: Objects
    tokenizer_bits: Bits
    hypothesis: _Hypothesis
    corpus: _Corpus
    sampling: _Sampling
    records: Annotated[list[_Records], Field(min_length=1)]
    sanity_check: _SanityCheck | None = None
    scored_on: _ScoredOn
    metrics: dict[str, _Metric]
    config: Objects
    inputs: Objects
    versions: Objects
    commit: Text | None

    @model_validator(mode="after")
    def _check_settings(self):
        """Refuse grids that the configuration would refuse, and metrics other than those that they ask for:
        no certificate states fewer than are computed again."""
        settings = slice_of(Bounds.model_validate(self.settings))
        if canonical_json(settings) != canonical_json(self.settings):
            raise ValueError("settings: not a section of bounds with its defaults filled in")
        names = {"bpd", *(f"top{k}" for k in settings["top_k"] if k < self.vocab_size)}
        if self.metrics.keys() != names:
            expected = ", ".join(sorted(names))
            raise ValueError(f"metrics: {', '.join(sorted(self.metrics)):.80}; expected {expected:.120}")
        return self


def check_shape(path, certificate):
    """Refuse what is no certificate of this version; `path` is named in the `InputError`.

    Parameters
    ----------
    path : path
    certificate : object
        Any JSON value.
    """
    if not isinstance(certificate, dict) or certificate.get("certificate") != VERSION:
        raise InputError(f"{path}: not a tokenbounds certificate of version {VERSION}")
    try:
        _Certificate.model_validate(certificate)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "certificate"
        absent = first["type"] == "missing" or not first["loc"]
        found = "" if absent else printable(ascii(first["input"]), 60)
        reason = printable(first["msg"], 200)
        more = f" ({error.error_count()} such values)" if error.error_count() > 1 else ""
        about = f"{printable(place, 120)}{f' is {found}' if found else ''}: {reason}{more}"
        raise NotWhole(f"{path}: not a whole certificate, {about}") from None
