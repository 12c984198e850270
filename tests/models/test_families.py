# SPDX-License-Identifier: Apache-2.0
"""Families: their config.json both ways, and their tables of tensors."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from alignjax import errors, models
from alignjax.huggingface import config_json, layout
from alignjax.models import decoder_config, families, tensor_names

FAMILIES = families.names()
SIZES = [(f, size) for f in FAMILIES for size in families.find(f).sizes]
TINY = dict(d_model=8, d_ff=12, heads=2, kv_heads=1, head_dim=4, layers=2, vocab_size=9)


def of(family, size, **fields):
    return models.build(dict(family=family, name=size, **fields), 5).config


def tiny(family):
    """Of the smallest size, but for what would take long to trace."""
    size = next(iter(families.find(family).sizes))
    fields = TINY | (dict(kv_heads=2) if family == "gpt2" else {})
    return of(family, size, **fields, max_length=64)


def stored(family, c):
    """config.json as it comes from a file."""
    return json.loads(json.dumps(config_json.write(c, families.find(family))))


def read(family, hf):
    section = dict(family=family, **config_json.read(hf, families.find(family)))
    return models.build(section, 5).config


@pytest.mark.parametrize("family,size", SIZES)
def test_a_config_json_says_all_that_a_size_computes(family, size):
    c = of(family, size)
    hf = stored(family, c)
    assert config_json.family_of(hf) is families.find(family)
    assert hf["architectures"] == [families.find(family).architecture]
    again = read(family, hf)
    assert config_json.computed(again) == config_json.computed(c)
    assert again.dtype == c.dtype


@pytest.mark.parametrize("family", FAMILIES)
def test_a_key_that_is_not_known_is_refused_by_name(family):
    hf = stored(family, tiny(family))
    fields = lambda hf: config_json.read(hf, families.find(family))
    for key, value in dict(quantization_config={}, alibi=True, auto_map={}).items():
        with pytest.raises(errors.ConfigError, match=rf"config\.json\.{key}: "):
            fields(hf | {key: value})
    act = next(
        x for x in ("hidden_activation", "hidden_act", "activation_function") if x in hf
    )
    with pytest.raises(errors.ConfigError, match=rf"config\.json\.{act}: 'relu6' is"):
        fields(hf | {act: "relu6"})
    with pytest.raises(errors.ConfigError, match=r"is_encoder_decoder: True is not"):
        fields(hf | {"is_encoder_decoder": True})
    size = "n_embd" if family == "gpt2" else "hidden_size"
    if family != "gemma3":  # files of that family leave out what its class knows
        with pytest.raises(errors.ConfigError, match=rf"config\.json\.{size}: missing"):
            fields({k: v for k, v in hf.items() if k != size})
    harmless = dict(use_cache=False, _name_or_path="x", transformers_version="9")
    assert fields(hf | harmless) == fields(hf)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_has_one_tensor(family):
    c = tiny(family)
    table = layout.table(families.find(family), c)
    leaves = [path for line in table for path in line.paths]
    assert sorted(leaves) == sorted(layout.shapes(c))
    assert len({line.name for line in table}) == len(table)
    for line in table:
        assert ("{layer}" in line.name) == line.paths[0].startswith("layers/")


def test_what_a_config_json_cannot_say_is_refused():
    qwen = dataclasses.replace(tiny("qwen2"), qk_norm="head")
    message = "model.qk_norm: 'head' cannot be said in the config.json of Qwen2ForC"
    with pytest.raises(errors.ConfigError, match=message):
        config_json.write(qwen, families.find("qwen2"))
    with pytest.raises(errors.ConfigError, match="no tensor for layers/k_norm/scale"):
        layout.table(families.find("qwen2"), qwen)
    other = dataclasses.replace(tiny("llama"), activation="gelu")
    with pytest.raises(errors.ConfigError, match="activation: 'gelu' has no name"):
        config_json.write(other, families.find("llama"))


def test_how_a_model_is_trained_is_not_said():
    fields = dict(dropout=0.1, lora_rank=2, remat="full", score_heads=1, unroll=2)
    changed = dataclasses.replace(tiny("llama"), **fields)
    assert stored("llama", changed) == stored("llama", tiny("llama"))
    assert layout.shapes(changed.without_extras()) == layout.shapes(tiny("llama"))


@pytest.mark.parametrize("family", FAMILIES)
def test_defaults_could_be_overridden(family):
    """None overrides nothing, so that a default for such a field would stay."""
    hints = {f.name: f for f in dataclasses.fields(decoder_config.DecoderConfig)}
    for name, value in families.find(family).defaults.items():
        assert value is not None
        assert "None" not in hints[name].type or hints[name].name == "qk_norm", name


def test_a_section_without_a_name_gives_every_size():
    section = dict(family="gemma2", **TINY, max_length=16, window=4)
    c = models.build(section, 5).config
    assert c.norm_placement == "both" and c.norm_offset == 1 and c.embedding_scale
    with pytest.raises(errors.ConfigError, match=r"model\.d_ff: required"):
        models.build({k: v for k, v in section.items() if k != "d_ff"}, 5)


def test_both_generations_of_files_are_read():
    llama = stored("llama", of("llama", "3.1-8b"))
    new = {k: v for k, v in llama.items() if k not in ("rope_scaling", "rope_theta")}
    new["rope_parameters"] = llama["rope_scaling"] | dict(rope_theta=500_000.0)
    new["dtype"] = new.pop("torch_dtype")
    assert read("llama", new) == read("llama", llama)
    assert read("llama", new).rope_scaling == of("llama", "3.1-8b").rope_scaling
    legacy = dict(llama["rope_scaling"])
    legacy["type"] = legacy.pop("rope_type")
    assert read("llama", llama | dict(rope_scaling=legacy)) == read("llama", llama)
    gemma = stored("gemma3", of("gemma3", "4b"))
    old = ("rope_scaling", "rope_theta", "rope_local_base_freq")
    new = {k: v for k, v in gemma.items() if k not in old}
    new["rope_parameters"] = dict(
        full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1e6),
        sliding_attention=dict(rope_type="default", rope_theta=1e4),
    )
    assert read("gemma3", new) == read("gemma3", gemma)


def test_the_text_of_a_model_that_sees_is_read():
    """As in the file of the 4B model, which leaves out what its class knows."""
    text = dict(
        hidden_size=2560,
        intermediate_size=10_240,
        model_type="gemma3_text",
        num_hidden_layers=34,
        rope_scaling=dict(factor=8.0, rope_type="linear"),
        sliding_window=1024,
    )
    hf = dict(
        architectures=["Gemma3ForConditionalGeneration"],
        boi_token_index=255_999,
        eoi_token_index=256_000,
        eos_token_id=[1, 106],
        image_token_index=262_144,
        mm_tokens_per_image=256,
        model_type="gemma3",
        text_config=text,
        torch_dtype="bfloat16",
        vision_config=dict(hidden_size=1152),
    )
    assert config_json.family_of(hf) is families.find("gemma3")
    c, expected = read("gemma3", hf), of("gemma3", "4b")
    assert config_json.computed(c) == config_json.computed(expected)
    assert c.dtype == "bfloat16"
    with pytest.raises(
        errors.ConfigError, match=r"config\.json\.audio_config: unknown"
    ):
        read("gemma3", hf | dict(audio_config={}))
    with pytest.raises(errors.ConfigError, match=r"config\.json\.alibi: unknown"):
        read("gemma3", hf | dict(text_config=text | dict(alibi=True)))


def test_which_layers_have_windows():
    windows = lambda family, **keys: [
        c.window and flag
        for c in [read(family, stored(family, tiny(family)) | keys)]
        for flag in c.layers_with_window
    ]
    for_all = dict(sliding_window=3, num_hidden_layers=4)
    untold = dict(layer_types=None, **for_all)
    assert windows("mistral", **for_all) == [True] * 4
    assert windows("gemma2", **untold) == [True, False] * 2
    assert windows("gemma3", **untold, sliding_window_pattern=3) == [
        True,
        True,
        False,
        True,
    ]
    upper = untold | dict(max_window_layers=3)
    assert windows("qwen2", **upper, use_sliding_window=True) == [False] * 3 + [True]
    assert windows("qwen2", **upper, use_sliding_window=False) == [None] * 4
    kinds = ["full_attention", "sliding_attention"] * 2
    assert windows("gemma2", **for_all, layer_types=kinds) == [False, True] * 2
    with pytest.raises(errors.ConfigError, match=r"layer_types: .* are not 4 of"):
        windows("gemma2", **for_all, layer_types=["chunked_attention"] * 4)
    with pytest.raises(errors.ConfigError, match="sliding_window: missing"):
        windows("gemma2", **for_all | dict(sliding_window=None), layer_types=kinds)


PHI = dict(type="longrope", short_factor=[1.0, 1.1], long_factor=[2.0, 4.0])


@pytest.mark.parametrize(
    "family,keys,expected",
    [
        ("phi3", dict(rope_scaling=PHI, max_position_embeddings=131_072), dict(
            kind="longrope",
            original_length=4096,
            short_factor=(1.0, 1.1),
            long_factor=(2.0, 4.0),
            attention_factor=np.sqrt(1 + np.log(32) / np.log(4096)),
        )),
        ("phi3", dict(rope_scaling=PHI | dict(type="su"),
                      original_max_position_embeddings=64), dict(
            kind="longrope",
            original_length=64,
            short_factor=(1.0, 1.1),
            long_factor=(2.0, 4.0),
            attention_factor=1.0,
        )),
        ("qwen3", dict(rope_scaling=dict(rope_type="yarn", factor=4.0,
                       original_max_position_embeddings=32)), dict(
            kind="yarn", factor=4.0, original_length=32)),
        ("llama", dict(rope_scaling=dict(rope_type="yarn", factor=4.0, mscale=0.5,
                       mscale_all_dim=1.0, original_max_position_embeddings=32)), dict(
            kind="yarn", factor=4.0, original_length=32,
            attention_factor=(0.05 * np.log(4) + 1) / (0.1 * np.log(4) + 1))),
        ("llama", dict(rope_scaling=dict(rope_type="default")), None),
    ],
)  # fmt: skip
def test_what_stretches_rotations(family, keys, expected):
    hf = stored(family, tiny(family))
    c = read(family, hf | keys)
    found = c.rope_scaling and {
        k: v for k, v in dataclasses.asdict(c.rope_scaling).items() if v is not None
    }
    if expected and "attention_factor" in expected:
        factor = found.pop("attention_factor")
        expected = dict(expected)
        assert factor == pytest.approx(expected.pop("attention_factor"))
    assert found == expected
    assert config_json.computed(read(family, stored(family, c))) == (
        config_json.computed(c)
    )


@pytest.mark.parametrize(
    "keys,message",
    [
        (dict(rope_scaling=dict(rope_type="dynamic", factor=2.0)), "'dynamic' is not"),
        (dict(rope_scaling=dict(rope_type="linear")), "factor: linear needs it"),
        (
            dict(rope_scaling=dict(rope_type="linear", factor="2")),
            "'2' is not a number",
        ),
        (dict(rope_scaling=dict(rope_type="linear", factor=2.0, x=1)), "scaling.x: "),
        (dict(rope_theta="big"), "rope_theta: 'big' is str, not float"),
    ],
)
def test_a_rotation_that_is_not_computed_is_refused(keys, message):
    hf = stored("llama", tiny("llama"))
    with pytest.raises(errors.ConfigError, match=message):
        read("llama", hf | keys)


@pytest.mark.parametrize(
    "family,keys,message",
    [
        ("llama", dict(rope_scaling=dict(type=["linear"])), "type: .* is not computed"),
        ("phi3", dict(rope_scaling=[1]), r"rope_scaling: \[1\] is list"),
        ("phi3", dict(original_max_position_embeddings="x"), "'x' is str, not int"),
        (
            "gemma3",
            dict(rope_parameters=dict(full_attention=3)),
            "full_attention: 3 is",
        ),
        ("gemma3", dict(text_config=[1]), "text_config: .* not dict"),
        ("gemma3", dict(sliding_window_pattern=0), "pattern: 0 must be at least 1"),
        ("gemma2", dict(layer_types=3), "layer_types: 3 is int, not list"),
        ("qwen2", dict(max_window_layers="x"), "max_window_layers: 'x' is str"),
        ("qwen2", dict(use_sliding_window="no"), "use_sliding_window: 'no' is str"),
        ("qwen3_moe", dict(num_experts=[1]), "num_experts: .* is list, not int"),
        ("gpt2", dict(n_inner="x"), "n_inner: 'x' is str, not int"),
    ],
)
def test_a_value_of_another_type_is_refused_by_name(family, keys, message):
    hf = {**stored(family, tiny(family)), **keys}
    if "text_config" in hf:
        hf = dict(model_type="gemma3", **keys)
    with pytest.raises(errors.ConfigError, match=rf"config\.json\..*{message}"):
        config_json.read(hf, families.find(family))


@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "gpt2"])
def test_a_part_of_a_head_is_rotated_only_where_transformers_does(family):
    hf, half = stored(family, tiny(family)), dict(partial_rotary_factor=0.5)
    inside = dict(rope_type="default", rope_theta=1e4, **half)
    # Gemma 3 has one for each kind of layer.
    other = dict(full_attention=inside) if family == "gemma3" else inside
    without = {k: v for k, v in hf.items() if not k.startswith("rope_")}
    says = dict(top=hf | half, inside=without | dict(rope_parameters=other))
    c = dataclasses.replace(tiny(family), rope_fraction=0.5)
    if family == "phi3":
        assert all(read(family, file).rope_fraction == 0.5 for file in says.values())
        assert read(family, stored(family, c)).rope_fraction == 0.5
        return
    for file in says.values():
        with pytest.raises(errors.ConfigError, match=r"partial_rotary_factor: 0\.5 is"):
            read(family, file)
    assert read(family, hf | dict(partial_rotary_factor=1.0)) == read(family, hf)
    with pytest.raises(errors.ConfigError, match=r"rope_fraction: 0\.5 cannot be said"):
        stored(family, c)


def test_a_tensor_is_cut_and_put_together_again():
    tensor = np.arange(8 * 6.0).reshape(8, 6)  # [out, in]: 4 for q, 2 for k and for v
    shapes = {
        "q/kernel": (1, 6, 2, 2),
        "k/kernel": (1, 6, 1, 2),
        "v/kernel": (1, 6, 1, 2),
    }
    line = tensor_names.Tensor("{layer}.qkv", tuple(shapes))
    (place,) = layout.places([line], shapes)
    assert (place.name, place.shape) == ("0.qkv", (8, 6))
    q, k, v = (place.read(part, tensor) for part in place.parts)
    assert [x.shape for x in (q, k, v)] == [shape[1:] for shape in shapes.values()]
    np.testing.assert_array_equal(q[1, :, 0], tensor[[0, 2], 1])
    np.testing.assert_array_equal(k[3, 0], tensor[4:6, 3])
    np.testing.assert_array_equal(v[3, 0], tensor[6:, 3])
    shapes = {"q/bias": (1, 2, 2), "k/bias": (1, 1, 2), "v/bias": (1, 1, 2)}
    (place,) = layout.places([tensor_names.plain("{layer}.b", tuple(shapes))], shapes)
    parts = [place.read(part, np.arange(8.0)).tolist() for part in place.parts]
    assert parts == [[[0, 1], [2, 3]], [[4, 5]], [[6, 7]]]
    shapes = {"o/kernel": (1, 3, 2, 8)}
    (place,) = layout.places([tensor_names.Tensor("{layer}.o", "o/kernel")], shapes)
    (o,) = (place.read(part, tensor) for part in place.parts)
    np.testing.assert_array_equal(o[1, 1], tensor[:, 3])


@pytest.mark.parametrize("name", ["lama", "__init__", "../llama", "llama.x", None, 3])
def test_only_families_of_the_folder_are_imported(name):
    with pytest.raises(errors.ConfigError, match=r"model\.family: "):
        families.find(name)
    with pytest.raises(errors.ConfigError, match=r"m\.family: "):
        models.build(dict(family=name), 5, "m")


ALPACA = """
from alignjax.models.families import llama

FAMILY = llama.FAMILY._replace(name="alpaca", model_types=("alpaca",))
"""


def test_a_family_is_one_file(tmp_path, monkeypatch):
    (tmp_path / "alpaca.py").write_text(ALPACA)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    config_json.model_types.cache_clear()
    try:
        c = of("alpaca", "nano")
        hf = stored("alpaca", c)
        assert hf["model_type"] == "alpaca"
        family = config_json.family_of(hf)
        section = dict(config_json.read(hf, family), family=family.name)
        assert config_json.computed(models.build(section, 5).config) == (
            config_json.computed(c)
        )
    finally:
        config_json.model_types.cache_clear()
        sys.modules.pop("alignjax.models.families.alpaca", None)


def test_families_are_called_as_their_files():
    assert all(families.find(name).name == name for name in families.names())


def test_an_unknown_model_type_lists_the_known():
    with pytest.raises(
        errors.ConfigError, match="no family reads 'lama'; did you mean"
    ):
        config_json.family_of(dict(model_type="lama"))
