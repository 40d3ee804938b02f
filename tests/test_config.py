"""Every check of the config, and that what is written is what is read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emojax.config import (
    MODELS,
    Config,
    DataConfig,
    MeshConfig,
    RedifuAuthorsConfig,
    RedifuConfig,
    TrainConfig,
    baselines,
    describe,
    digest,
    from_dict,
    load,
    override,
    to_dict,
)
from emojax.config.shared_space import SharedSpaceConfig
from emojax.errors import ConfigError

NAN, INF = math.nan, math.inf
WRONG = [
    (DataConfig, {"batch_utterances": 0}, "data.batch_utterances must be positive"),
    (DataConfig, {"batch_conversations": -1}, "data.batch_conversations must be positive"),
    (DataConfig, {"validation_fraction": 1.0}, r"data.validation_fraction must be in \[0, 1\)"),
    (DataConfig, {"validation_fraction": NAN}, r"data.validation_fraction must be in \[0, 1\)"),
    (DataConfig, {"buckets": (8, 4)}, "data.buckets must be increasing"),
    (DataConfig, {"buckets": (8, 8)}, "data.buckets must be increasing"),
    (DataConfig, {"buckets": (0, 8)}, "data.buckets must be increasing and positive"),
    (DataConfig, {"buckets": ()}, "data.buckets must name at least one length"),
    (DataConfig, {"buckets": (64,), "batch_utterances": 32}, "data.buckets has 64, longer than"),
    (DataConfig, {"layout": "loose"}, "data.layout must be one of 'packed', 'padded', not 'loose'"),
    (DataConfig, {"overlong": "cut"}, "data.overlong must be one of"),
    (DataConfig, {"train_share": 0.0}, r"data.train_share must be in \(0, 1\], not 0"),
    (DataConfig, {"train_share": 1.01}, r"data.train_share must be in \(0, 1\]"),
    (DataConfig, {"train_share": NAN}, r"data.train_share must be in \(0, 1\]"),
    (DataConfig, {"corrupt": ("noise:snr=loud",)}, "data.corrupt: 'noise:snr=loud': snr must be"),
    (RedifuConfig, {"width": 0}, "model.width must be positive"),
    (RedifuConfig, {"heads": 0}, "model.heads must be positive"),
    (RedifuConfig, {"graph_heads": 0}, "model.graph_heads must be positive"),
    (RedifuConfig, {"feed_forward_ratio": 0}, "model.feed_forward_ratio must be positive"),
    (RedifuConfig, {"dropout": 1.0}, "model.dropout must be in"),
    (RedifuConfig, {"attention_dropout": 1.0}, "model.attention_dropout must be in"),
    (SharedSpaceConfig, {"layers": -1}, "model.layers must not be negative"),
    (SharedSpaceConfig, {"units": 0}, "model.units must be positive"),
    (SharedSpaceConfig, {"contrast": "triplet"}, "model.contrast must be one of 'symmetric'"),
    (SharedSpaceConfig, {"temperature": 0.0}, "model.temperature must be positive"),
    (RedifuConfig, {"lambda_init": 1.0}, "model.lambda_init must be in"),
    (
        RedifuConfig, {"lambda_init": 0.5, "attention": "v2"},
        "model.lambda_init is for model.attention",
    ),
    (RedifuConfig, {"input_dropout": -0.1}, "model.input_dropout must be in"),
    (RedifuConfig, {"modality_dropout": NAN}, "model.modality_dropout must be in"),
    (RedifuConfig, {"feature_mix": -1.0}, "model.feature_mix must be in"),
    (RedifuConfig, {"modalities": ()}, "model.modalities must name at least one modality"),
    (RedifuConfig, {"modalities": ("text", "text")}, "model.modalities must name .*, none twice"),
    (RedifuConfig, {"modalities": ("text", "smell")}, "model.modalities must be one of 'text'"),
    (RedifuConfig, {"encoder_layers": -1}, "model.encoder_layers must not be negative"),
    (RedifuConfig, {"graph_layers": -1}, "model.graph_layers must not be negative"),
    (RedifuConfig, {"diffusion_steps": -1}, "model.diffusion_steps must not be negative"),
    (RedifuConfig, {"window": -1}, "model.window must not be negative"),
    (RedifuConfig, {"width": 12, "heads": 4}, "model.width must be a multiple of 2 x model.heads"),
    (RedifuConfig, {"graph_heads": 3}, "model.graph_heads must divide model.width"),
    (RedifuConfig, {"attention": "triple"}, "model.attention must be one of 'temporal', 'dual'"),
    (RedifuConfig, {"cross_modal": "all"}, "model.cross_modal must be one of"),
    (RedifuConfig, {"alignment": "dtw"}, "model.alignment must be one of"),
    (
        baselines.EarlyFusionConfig, {"width": 30, "alignment": "attention"},
        "model.width must be a multiple of 4",
    ),
    (RedifuConfig, {"dtype": "float16"}, "model.dtype must be one of"),
    (RedifuConfig, {"name": "redifu_authors"}, "model.name must be one of 'redifu'"),
    (RedifuAuthorsConfig, {"width": 0}, "model.width must be positive"),
    (RedifuAuthorsConfig, {"heads": 0}, "model.heads must be positive"),
    (RedifuAuthorsConfig, {"window": 0}, "model.window must be positive"),
    (RedifuAuthorsConfig, {"dropout": 1.0}, "model.dropout must be in"),
    (RedifuAuthorsConfig, {"graph_dropout": 1.5}, "model.graph_dropout must be in"),
    (RedifuAuthorsConfig, {"width": 100}, "model.width must be even and a multiple"),
    (RedifuAuthorsConfig, {"width": 9, "heads": 9}, "model.width must be even"),
    (RedifuAuthorsConfig, {"width": 18, "heads": 9}, "model.heads must be even on the IEMOCAP"),
    (RedifuAuthorsConfig, {"branch": "mosi"}, "model.branch must be one of 'iemocap', 'meld'"),
    (RedifuAuthorsConfig, {"dtype": "half"}, "model.dtype must be one of"),
    (baselines.SingleConfig, {"modalities": ("text", "audio")}, "must name one modality"),
    (baselines.SingleConfig, {"layers": -1}, "model.layers must not be negative"),
    (baselines.EarlyFusionConfig, {"layers": -1}, "model.layers must not be negative"),
    (baselines.LateFusionConfig, {"layers": -1}, "model.layers must not be negative"),
    (baselines.LateFusionConfig, {"decision": "vote"}, "model.decision must be one of 'average'"),
    (baselines.LateTransformerConfig, {"layers": -1}, "model.layers must not be negative"),
    (baselines.LateTransformerConfig, {"decision": "vote"}, "model.decision must be one of"),
    (baselines.LateTransformerConfig, {"heads": 3}, "model.heads must divide model.width = 64"),
    (baselines.LateTransformerConfig, {"feed_forward_ratio": 0}, "feed_forward_ratio must be pos"),
    (baselines.HybridFusionConfig, {"layers": -1}, "model.layers must not be negative"),
    (baselines.AttentionFusionConfig, {"layers": -1}, "model.layers must not be negative"),
    (baselines.CnnRnnConfig, {"taps": 2}, "model.taps must be odd and positive, not 2"),
    (baselines.TensorFusionConfig, {"units": 0}, "model.units must be positive"),
    (baselines.LowRankFusionConfig, {"rank": 0}, "model.rank must be positive"),
    (baselines.MultConfig, {"heads": 0}, "model.heads must be positive"),
    (baselines.MultConfig, {"layers": 0}, "model.layers must be positive"),
    (baselines.MultConfig, {"feed_forward_ratio": 0}, "feed_forward_ratio must be positive"),
    (baselines.DialogueGcnConfig, {"window": -1}, "model.window must not be negative"),
    (baselines.SdtConfig, {"heads": 5}, "model.heads must divide model.width"),
    (baselines.SdtConfig, {"feed_forward_ratio": 0}, "feed_forward_ratio must be positive"),
    (TrainConfig, {"epochs": 0}, "train.epochs must be positive"),
    (TrainConfig, {"distillation_weight": -1.0}, "train.distillation_weight must be 0 or more"),
    (TrainConfig, {"distillation_temperature": 0.0}, "distillation_temperature must be positive"),
    (TrainConfig, {"learning_rate": 0.0}, "train.learning_rate must be positive"),
    (TrainConfig, {"learning_rate": INF}, "train.learning_rate must be positive and finite"),
    (TrainConfig, {"learning_rate": NAN}, "train.learning_rate must be positive and finite"),
    (TrainConfig, {"warmup": 1.0}, "train.warmup must be in"),
    (TrainConfig, {"label_smoothing": -0.1}, "train.label_smoothing must be in"),
    (TrainConfig, {"ema_decay": 1.0}, "train.ema_decay must be in"),
    (TrainConfig, {"weight_decay": -1.0}, "train.weight_decay must be 0 or more"),
    (TrainConfig, {"weight_decay": INF}, "train.weight_decay must be 0 or more and finite"),
    (TrainConfig, {"auxiliary_weight": NAN}, "train.auxiliary_weight must be 0 or more"),
    (TrainConfig, {"final_learning_rate": -1.0}, "train.final_learning_rate must be 0 or more"),
    (TrainConfig, {"clip_norm": 0.0}, "train.clip_norm must be positive"),
    (TrainConfig, {"patience": 0}, "train.patience must be positive"),
    (TrainConfig, {"checkpoint_every": 0}, "train.checkpoint_every must be positive"),
    (TrainConfig, {"seed": -1}, "train.seed must be in"),
    (TrainConfig, {"seed": 2**32}, "train.seed must be in"),
    (TrainConfig, {"optimiser": "sgd"}, "train.optimiser must be one of"),
    (TrainConfig, {"class_weights": "squared"}, "train.class_weights must be one of"),
    (TrainConfig, {"auxiliary_power": 3}, "train.auxiliary_power must be one of 1, 2, not 3"),
    (TrainConfig, {"auxiliary_power": True}, "train.auxiliary_power must be one of 1, 2, not True"),
    (TrainConfig, {"select": "f1"}, "train.select must be one of"),
    (TrainConfig, {"accumulate": 0}, "train.accumulate must be positive"),
    (TrainConfig, {"remat": "all"}, "train.remat must be one of 'none', 'products', 'layers'"),
    (MeshConfig, {"data": 0}, "mesh.data must be positive"),
    (MeshConfig, {"fsdp": 0}, "mesh.fsdp must be positive"),
    (MeshConfig, {"sequence": -1}, "mesh.sequence must be positive"),
    (MeshConfig, {"model": 0}, "mesh.model must be positive"),
    (TrainConfig, {"schedule_per_epoch": True}, "train.warmup must be 0 with train.schedule_per"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "values", "message"), WRONG, ids=str)
def test_a_wrong_value_is_refused_however_it_comes(kind, values, message):
    with pytest.raises(ConfigError, match=message):
        kind(**values)
    with pytest.raises(ConfigError, match=message):
        from_dict(values, kind)


MESHES = [
    ({"mesh": {"model": 3}}, "mesh.model must divide model.heads = 4, not 3"),
    ({"mesh": {"model": 4}, "model": {"graph_heads": 2}}, "mesh.model must divide model.graph_h"),
    ({"mesh": {"fsdp": 3}}, "model.width must be a multiple of mesh.fsdp x mesh.model = 3, not 64"),
    ({"mesh": {"fsdp": 32, "model": 4}}, "mesh.fsdp x mesh.model = 128, not 64"),
    ({"mesh": {"sequence": 16}}, "mesh.sequence must divide every row length .* rows of 40"),
    ({"mesh": {"sequence": 5}}, "mesh.sequence must divide every row length .* rows of 64"),
    ({"mesh": {"sequence": 40}}, "into parts of 2 or more, not 40: there are rows of 40"),
    (
        {
            "mesh": {"sequence": 2},
            "model": {"name": "redifu_authors"},
            "data": {"layout": "padded"},
        },
        "mesh.sequence must be 1 for redifu_authors: only redifu is divided along",
    ),
    (
        {"mesh": {"model": 2}, "model": {"name": "redifu_authors"}, "data": {"layout": "padded"}},
        "mesh.model must be 1 for redifu_authors",
    ),
    (
        {"mesh": {"sequence": 2}, "model": {"name": "bc_lstm"}},
        "mesh.sequence must be 1 for bc",
    ),
]


@pytest.mark.parametrize(("values", "message"), MESHES, ids=str)
def test_a_mesh_that_the_model_or_the_data_cannot_be_laid_over_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        from_dict(values)


def test_a_mesh_that_fits():
    from_dict({"mesh": {"data": 4, "fsdp": 8, "sequence": 8, "model": 4}})


def test_what_was_written_before_there_was_a_mesh_can_be_read():
    values = to_dict(Config())
    del values["mesh"], values["train"]["accumulate"], values["train"]["remat"]
    assert from_dict(values) == Config()


def test_every_field_with_choices_or_bounds_is_checked():
    """A field added without a check shows up here."""

    def owner(kind, name):
        return next(each for each in kind.__mro__ if name in vars(each).get("__annotations__", {}))

    tried = {(owner(kind, name), name) for kind, values, _ in WRONG for name in values}
    # Strings that only reading can judge.
    free = {"source", "data_dir", "split_rule", "text_encoder", "initialise_from"}
    for kind in (DataConfig, TrainConfig, MeshConfig, *MODELS.values()):
        for name, hint in typing.get_type_hints(kind).items():
            if hint is not bool and name not in free:
                assert (owner(kind, name), name) in tried or name == "name", (kind, name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model": {"widht": 3}}, "model.widht is not a field; did you mean 'width'?"),
        ({"modle": {}}, "modle is not a field; did you mean 'model'?"),
        ({"train": {"xyzzy": 1}}, "train.xyzzy is not a field; known are epochs, seed, "),
        ({"train": {"epochs": 2.0}}, "train.epochs must be int, not 2.0"),
        ({"train": {"epochs": "2"}}, "train.epochs must be int, not '2'"),
        ({"train": {"seed": True}}, "train.seed must be int, not True"),
        ({"data": {"skip_bad": "no"}}, "data.skip_bad must be bool, not 'no'"),
        ({"data": {"skip_bad": 0}}, "data.skip_bad must be bool, not 0"),
        ({"data": {"source": 3}}, "data.source must be str, not 3"),
        ({"train": {"clip_norm": "1"}}, "train.clip_norm must be float, not '1'"),
        ({"data": {"buckets": 64}}, "data.buckets must be a list, not 64"),
        ({"data": {"buckets": "64"}}, "data.buckets must be a list, not '64'"),
        ({"model": {"modalities": "text"}}, "model.modalities must be a list, not 'text'"),
        ({"model": {"modalities": [3]}}, "model.modalities must be one of 'text'"),
        ({"data": {"buckets": [64, "a"]}}, "data.buckets must be int, not 'a'"),
        ({"data": 3}, "data must be a table of fields, not 3"),
        ({"model": None}, "model must be a table of fields, not None"),
        ({"model": {"name": "gpt"}}, "model.name must be one of redifu, redifu_authors, single, "),
        ({"model": {"name": ["redifu"]}}, "model.name must be one of redifu, "),
        ({"model": {"name": "redifu_authors"}}, 'data.layout must be "padded"'),
        ({"model": {"name": "redifu_authors", "delta": True}}, "model.delta is not a field"),
        ([], "must be a table of fields"),
    ],
    ids=str,
)
def test_errors_name_the_field_and_what_would_be_right(values, message):
    with pytest.raises(ConfigError) as caught:
        from_dict(values)
    assert str(caught.value).startswith(message)


def test_a_whole_number_is_a_float_where_a_float_is_wanted():
    assert from_dict({"learning_rate": 1, "clip_norm": None}, TrainConfig) == TrainConfig(
        learning_rate=1.0, clip_norm=None
    )


def test_overrides_are_toml_and_bare_words_are_strings():
    values = {"train": {"epochs": 3}, "data": {"source": "x"}}
    changed = override(
        values,
        ["train.epochs=5", "train.clip_norm = null", "data.buckets=[8, 16]", "data.source=a b/c=d",
         'data.data_dir="q"', "model.causal=true", "train.learning_rate=1e-4"],
    )  # fmt: skip
    assert changed == {
        "train": {"epochs": 5, "clip_norm": None, "learning_rate": 1e-4},
        "data": {"buckets": [8, 16], "source": "a b/c=d", "data_dir": "q"},
        "model": {"causal": True},
    }
    assert values == {"train": {"epochs": 3}, "data": {"source": "x"}}
    config = from_dict(changed)
    assert config.data.buckets == (8, 16)
    assert config.train.clip_norm is None
    assert config.model == RedifuConfig(causal=True)


@pytest.mark.parametrize("text", ["epochs=3", "train.epochs", "train.=3", ".epochs=3", "=", ""])
def test_an_override_without_section_field_and_value(text):
    with pytest.raises(ConfigError, match=r"is not of the form section\.field=value"):
        override({}, [text])


def test_an_override_below_a_value():
    with pytest.raises(ConfigError, match="train is a table of fields, not 3"):
        override({"train": 3}, ["train.epochs=3"])


def test_dates_of_toml_are_refused_with_the_field(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("[train]\nlearning_rate = 2020-01-01\n")
    with pytest.raises(ConfigError, match=r"train\.learning_rate must be float, not datetime"):
        from_dict(override(load(path), []))


@pytest.mark.parametrize(
    "content",
    [b"[train\nepochs = 3", b"epochs = ", b"\xff\xfe", b"a = " + b"[" * 20_000, b"a = 1\na = 2"],
    ids=["bracket", "no value", "not utf-8", "deep", "twice"],
)
def test_what_is_not_toml_is_one_clear_error(content, tmp_path):
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.toml: cannot be read as TOML"):
        load(path)


@pytest.mark.parametrize("name", ["nowhere.toml", "."])
def test_a_file_that_cannot_be_opened(name, tmp_path):
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        load(tmp_path / name)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_described_is_the_default(name, tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(describe(name), encoding="utf-8")
    config = from_dict(load(path))
    assert config.model == MODELS[name]()
    assert config.train == TrainConfig()
    fields = {f.name for kind in (DataConfig, MODELS[name], TrainConfig) for f in
              dataclasses.fields(kind)}  # fmt: skip
    assert all(field in path.read_text() for field in fields)


def test_an_unknown_model_cannot_be_described():
    with pytest.raises(ConfigError, match="known are redifu, redifu_authors"):
        describe("gpt")


MODEL = st.one_of(
    st.builds(
        RedifuConfig,
        width=st.sampled_from([16, 64]),
        heads=st.sampled_from([2, 4]),
        attention=st.sampled_from(["temporal", "dual", "v2", "none"]),
        window=st.integers(0, 9),
        dropout=st.floats(0, 1, exclude_max=True),
        causal=st.booleans(),
    ),
    st.builds(RedifuAuthorsConfig, branch=st.sampled_from(["iemocap", "meld"])),
)
CONFIG = st.builds(
    Config,
    data=st.builds(
        DataConfig,
        source=st.text(),
        layout=st.just("padded"),
        buckets=st.sets(st.integers(1, 200)).map(lambda b: tuple(sorted(b))),
        validation_fraction=st.none() | st.floats(0, 1, exclude_max=True),
    ),
    model=MODEL,
    train=st.builds(
        TrainConfig,
        seed=st.integers(0, 2**32 - 1),
        learning_rate=st.floats(0, 10, exclude_min=True),
        clip_norm=st.none() | st.floats(0, 10, exclude_min=True),
        patience=st.none() | st.integers(1, 5),
        auxiliary_power=st.sampled_from([1, 2]),
    ),
)


@settings(max_examples=60, deadline=None)
@given(config=CONFIG)
def test_a_config_survives_writing_and_reading(config):
    plain = to_dict(config)
    again = from_dict(json.loads(json.dumps(plain)))
    assert again == config
    assert to_dict(again) == plain
    assert digest(again) == digest(config)


@settings(max_examples=60, deadline=None)
@given(one=CONFIG, two=CONFIG)
def test_digests_are_equal_exactly_where_configs_are(one, two):
    assert (digest(one) == digest(two)) == (one == two)
    changed = dataclasses.replace(one, train=dataclasses.replace(one.train, epochs=31))
    assert digest(changed) != digest(one)


def test_a_digest_is_a_plain_hash_of_sorted_json():
    values = {"seed": 7}
    text = json.dumps({**to_dict(TrainConfig()), **values}, sort_keys=True)
    wanted = hashlib.sha256(text.encode()).hexdigest()
    assert digest(TrainConfig(seed=7)) == wanted[: len(digest(TrainConfig()))]
    assert digest(TrainConfig(weight_decay=0)) == digest(TrainConfig(weight_decay=0.0))


@settings(max_examples=200, deadline=None)
@given(
    values=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["data", "model", "train", "name", "epochs", "buckets", "x"]), inner
            )
        ),
        max_leaves=8,
    )
)
def test_nothing_but_a_config_or_a_config_error_comes_out(values):
    try:
        config = from_dict(values)
    except ConfigError:
        return
    assert isinstance(config, Config)
