# SPDX-License-Identifier: Apache-2.0
"""Adapters to PEFT's folders and back: the same logits, and refusals by name."""

import json

import adapted
import numpy as np
import pytest

from alignjax import analysis, convert, errors, trees
from alignjax.analysis import conversion
from alignjax.huggingface import peft, peft_config
from alignjax.storage import tensor_files
from tests.fixtures import marks

TOKENS = np.arange(3, 19).reshape(2, 8)


@pytest.fixture(scope="module")
def llama():
    return adapted.base("llama3")


@pytest.mark.parametrize(
    "family,kind",
    marks.slow_but(
        [("llama3", "lora"), ("gpt2", "some")],
        [("llama3", "lora"), ("gpt2", "some"), ("phi3", "lora"), ("qwen3_moe", "lora")],
    ),
)
def test_there_and_back_it_computes_the_same(family, kind, tmp_path):
    """Theirs that are several of ours too: there B is in blocks, here A is shared."""
    opened, fields = adapted.base(family), adapted.KINDS[kind]
    c, whole, folder = adapted.written(opened, fields, tmp_path / "peft")
    run = conversion.import_adapters(folder, opened.path, tmp_path / "run")
    wanted = adapted.logits(c, whole, TOKENS)
    again = run.model.config
    found = adapted.logits(adapted.in_float32(again), adapted.params(run, {}), TOKENS)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    plain = adapted.logits(c, adapted.params(opened, {}), TOKENS)
    assert np.abs(wanted - plain).max() > 1e-2
    if family in ("llama3", "qwen3_moe"):  # nothing is fused: the same bits
        assert again.lora_rank == 3
        for name, leaf in run.leaves().items():
            if name.endswith(("lora_a", "lora_b")):
                mine = trees.named_leaves(whole)[name]
                np.testing.assert_array_equal(leaf[...], mine, err_msg=name)
    # And out again, from the run.
    second = conversion.export_adapters(run, tmp_path / "second")
    known = json.loads((second / peft.CONFIG).read_text())
    assert known["base_model_name_or_path"] == str(opened.path)
    read = peft.read(second, opened.config["model"]["family"], c, opened.leaves())
    assert read.fields["lora_dora"] == c.lora_dora


def test_the_run_opens_and_holds_adapters_alone(llama, tmp_path):
    _, whole, folder = adapted.written(llama, adapted.KINDS["dora"], tmp_path / "peft")
    run = conversion.import_adapters(folder, llama.path, tmp_path / "run")
    opened = analysis.open_run(tmp_path / "run")
    leaves = opened.meta()["leaves"]
    assert leaves and all("/lora_" in name for name in leaves)
    assert (
        trees.named_leaves(opened.params()).keys() == trees.named_leaves(whole).keys()
    )
    assert opened.digest() == run.digest() != llama.digest()
    assert opened.config["model"]["lora_dora"] and opened.steps == [0]
    size = sum(p.stat().st_size for p in run.directory.rglob("*") if p.is_file())
    assert (
        size
        < 1.5 * sum(x.nbytes for x in opened.store.from_step(0, held).values()) + 2**15
    )


def held(stored):
    return stored.read("params", None)


def test_names_are_peft_s(llama, tmp_path):
    _, _, folder = adapted.written(llama, adapted.KINDS["some"], tmp_path / "peft")
    tensors = tensor_files.open_file(folder / peft.WEIGHTS)
    first = "base_model.model.model.layers.0."
    layer = {name for name in tensors if name.startswith(first)}
    assert layer == {
        f"{first}{module}.{part}"
        for module in ("self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj")
        for part in ("lora_A.weight", "lora_B.weight", "lora_magnitude_vector")
    }
    c = llama.model.config
    assert tensors[f"{first}mlp.up_proj.lora_A.weight"].shape == (3, c.d_model)
    assert tensors[f"{first}mlp.up_proj.lora_B.weight"].shape == (c.d_ff, 3)
    known = json.loads((folder / peft.CONFIG).read_text())
    assert known["target_modules"] == ["k_proj", "o_proj", "up_proj"]
    assert (known["r"], known["lora_alpha"], known["use_dora"]) == (3, 6, True)


def test_a_name_that_two_modules_share_is_told_apart(tmp_path):
    fields = adapted.RANK | dict(lora_targets="layers/(q|mlp/down)")
    folder = adapted.written(adapted.base("gpt2"), fields, tmp_path / "peft")[2]
    known = json.loads((folder / peft.CONFIG).read_text())
    assert known["target_modules"] == ["c_attn", "mlp.c_proj"]
    assert known["fan_in_fan_out"] and known["rank_pattern"] == {}
    fields = adapted.RANK | dict(lora_targets="layers/[qkvo]", lora_rslora=True)
    folder = adapted.written(adapted.base("gpt2"), fields, tmp_path / "more")[2]
    known = json.loads((folder / peft.CONFIG).read_text())
    assert known["target_modules"] == ["attn.c_proj", "c_attn"]
    assert known["rank_pattern"] == {r"attn\.c_attn": 9}
    (alpha,) = known["alpha_pattern"].values()
    assert alpha / 9**0.5 == pytest.approx(6 / 3**0.5)


def changed(folder, **fields):
    known = json.loads((folder / peft.CONFIG).read_text()) | fields
    (folder / peft.CONFIG).write_text(json.dumps(known))


REFUSED = {
    "layers": (dict(layers_to_transform=[0]), "layers_to_transform = [0]"),
    "modules": (dict(modules_to_save=["lm_head"]), "modules_to_save = ['lm_head']"),
    "bias": (dict(bias="all"), "bias = 'all'"),
    "kind": (dict(peft_type="IA3"), "peft_type = 'IA3'"),
    "start": (dict(init_lora_weights="pissa"), "init_lora_weights = 'pissa'"),
    "unknown": (dict(use_magic=True), "use_magic = True: an unknown field"),
    "by layer": (
        dict(alpha_pattern={"layers.1.self_attn.q_proj": 3}),
        "tell layers of self_attn.q_proj apart",
    ),
    "rank": (dict(r=4), "ask {'lora_A': (4, "),
    "no rank": (dict(r=0), "r = 0: 0 is no positive whole number"),
    "a rank beyond floats": (dict(rank_pattern={"q_proj": 10**400}), "rank_pattern = "),
    "no alpha of one": (dict(alpha_pattern={"q_proj": "6"}), "alpha_pattern = "),
    "half a rank": (dict(r=3.5), "r = 3.5: 3.5 is no positive whole number"),
    "no alpha": (dict(lora_alpha=0.0), "lora_alpha = 0.0: 0.0 is no positive"),
    "no number": (dict(lora_alpha=float("nan")), "adapter_config.json: "),
    "dropout": (dict(lora_dropout=1.5), "lora_dropout = 1.5: it is not in [0, 1)"),
    "word": (dict(lora_dropout="a"), "lora_dropout = 'a': it is not in [0, 1)"),
    "list": (dict(rank_pattern=[1]), "adapter_config.json: rank_pattern: [1] is list"),
    "magnitudes": (dict(use_dora=True), "'m': ("),
    "targets": (dict(target_modules=["q_proj", "lm_head"]), "'lm_head' has no tensors"),
    "pattern": (dict(rank_pattern={"*": 3}), "rank_pattern: '*'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_computed_is_refused_by_name(case, llama, tmp_path):
    _, _, folder = adapted.written(llama, adapted.KINDS["lora"], tmp_path / "peft")
    fields, words = REFUSED[case]
    changed(folder, **fields)
    with pytest.raises(errors.ConfigError) as error:
        conversion.import_adapters(folder, llama.path, tmp_path / "run")
    assert words in str(error.value), str(error.value)
    assert {path.name for path in tmp_path.iterdir()} == {"peft"}


def test_targets_in_all_of_peft_s_spellings(llama, tmp_path):
    c, leaves = adapted.draw(llama, adapted.KINDS["lora"])
    tensors, known = peft.write(leaves, "llama", c)
    tensors = {name: x for name, x in tensors.items() if "q_proj" in name}
    stems = {name.removeprefix(peft.PREFIX) for name in tensors}
    full = sorted({stem.rpartition(".lora_")[0] for stem in stems})
    spellings = [
        {"target_modules": full},
        {"target_modules": [peft.PREFIX + name for name in full]},
        {"target_modules": "all-linear"},
        {"target_modules": ["all-linear"]},
        {"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["mlp.up_proj"]},
        {"target_modules": ["q_proj", "up_proj"], "exclude_modules": r".*\.up_proj"},
    ]
    for i, fields in enumerate(spellings):
        peft.save(tmp_path / str(i), tensors, known | fields)
        adapters = peft.read(
            tmp_path / str(i), "llama", llama.model.config, llama.leaves()
        )
        assert {name.split("/")[-2] for name in adapters.leaves} == {"q"}
    wrong = known | {"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["x"]}
    peft.save(tmp_path / "wrong", tensors, wrong)
    with pytest.raises(errors.ConfigError, match="target_modules: 'up_proj' has no"):
        peft.read(tmp_path / "wrong", "llama", llama.model.config, llama.leaves())


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"exclude_modules": ["up_proj", "q_proj"]}, "exclude_modules: names .*q_proj"),
        ({"exclude_modules": r".*[qp]_proj"}, "exclude_modules: names .*q_proj"),
        ({"exclude_modules": r"model\.layers\.1\..*"}, r"names model\.layers\.1\."),
        ({"target_modules": ["v_proj"]}, "target_modules: leaves out .*q_proj"),
        ({"target_modules": r".*layers\.0.*"}, r"leaves out model\.layers\.1\."),
        ({"target_modules": "("}, "target_modules.* is no pattern"),
        ({"target_modules": []}, "target_modules = .*: it is no list of names"),
        ({"target_modules": [["q_proj"]]}, "target_modules = .*: it is no list of"),
        ({"exclude_modules": {"q_proj": 1}}, "exclude_modules = .*: it is no list of"),
        ({"exclude_modules": 5}, "exclude_modules = 5: it is no list of names"),
    ],
)
def test_targets_that_contradict_the_tensors_are_refused(tmp_path, fields, words):
    """PEFT would load such a folder, and leave out tensors with a warning."""
    names = [
        f"model.layers.{i}.{module}"
        for i in (0, 1)
        for module in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")
    ]
    file = tmp_path / peft.CONFIG
    settings = {"peft_type": "LORA", "r": 3, "lora_alpha": 6}
    settings |= {"target_modules": ["q_proj", "up_proj"], **fields}
    file.write_text(json.dumps(settings))
    stored = [name for name in names if "q_proj" in name]
    with pytest.raises(errors.ConfigError, match=words):
        read = peft_config.read(file)
        raise errors.ConfigError(read.check_modules(stored, names, peft.WEIGHTS))


def test_tensors_that_lack_or_do_not_belong_are_named(llama, tmp_path):
    c, leaves = adapted.draw(llama, adapted.KINDS["lora"])
    tensors, known = peft.write(leaves, "llama", c)
    import_ = lambda name: peft.read(
        tmp_path / name, "llama", llama.model.config, llama.leaves()
    )
    lost = {n: x for n, x in tensors.items() if "layers.1.mlp.up_proj.lora_B" not in n}
    peft.save(tmp_path / "lost", lost, known)
    with pytest.raises(errors.ConfigError, match=r"layers\.1\.mlp\.up_proj has"):
        import_("lost")
    more = {
        **tensors,
        f"{peft.PREFIX}lm_head.lora_A.weight": np.zeros((3, 4), np.float32),
    }
    peft.save(tmp_path / "more", more, known)
    with pytest.raises(errors.ConfigError, match=r"lm_head\.lora_A\.weight"):
        import_("more")
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / peft.CONFIG).write_text(json.dumps(known))
    (tmp_path / "pickled/adapter_model.bin").write_bytes(b"")
    with pytest.raises(errors.ConfigError, match="is pickled, and never read"):
        import_("pickled")


def test_what_is_no_object_and_what_are_no_floats_are_refused(llama, tmp_path):
    c, leaves = adapted.draw(llama, adapted.KINDS["lora"])
    tensors, known = peft.write(leaves, "llama", c)
    whole = {name: x.astype(np.int32) for name, x in tensors.items()}
    folder = peft.save(tmp_path / "peft", whole, known)
    import_ = lambda: conversion.import_adapters(folder, llama.path, tmp_path / "run")
    with pytest.raises(errors.ConfigError, match="has numbers of int32; save them as"):
        import_()
    (folder / peft.CONFIG).write_text("[]")
    with pytest.raises(errors.ConfigError, match=r"adapter_config\.json: "):
        import_()
    assert not (tmp_path / "run").exists()


def test_a_run_that_could_not_be_opened_is_not_made(llama, tmp_path, monkeypatch):
    _, _, folder = adapted.written(llama, adapted.KINDS["lora"], tmp_path / "peft")
    found = peft.read(folder, "llama", llama.model.config, llama.leaves())
    odd = found._replace(fields={**found.fields, "lora_targets": "nothing"})
    monkeypatch.setattr(peft, "read", lambda *arguments: odd)
    with pytest.raises(errors.ConfigError, match="lora_targets: 'nothing' matches no"):
        conversion.import_adapters(folder, llama.path, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_exported_is_refused(llama, tmp_path):
    with pytest.raises(errors.ConfigError, match="has no adapters"):
        conversion.export_adapters(llama, tmp_path / "none")
    _, _, folder = adapted.written(llama, adapted.KINDS["lora"], tmp_path / "peft")
    run = conversion.import_adapters(folder, llama.path, tmp_path / "run")
    with pytest.raises(errors.ConfigError, match="not empty"):
        conversion.export_adapters(run, folder)
    run.config["trainable"] = r".*/lora_[abm]|norm/.*"
    with pytest.raises(errors.ConfigError, match="norm/scale: trained too"):
        conversion.export_adapters(run, tmp_path / "others")
    with pytest.raises(errors.ConfigError, match="has adapters already"):
        conversion.import_adapters(folder, run.path, tmp_path / "twice")


def test_the_command_merges_adapters_into_what_it_exports(llama, tmp_path, capsys):
    _, whole, folder = adapted.written(llama, adapted.KINDS["dora"], tmp_path / "peft")
    run = conversion.import_adapters(folder, llama.path, tmp_path / "run")
    out = tmp_path / "out"
    assert convert.main(["export", str(run.path), str(out)]) == 0
    said = capsys.readouterr().out
    count = sum(leaf.size for leaf in llama.leaves().values())
    assert f"{count:,} parameters" in said and "merged into their kernels" in said
    c = adapted.in_float32(run.model.config)
    found = adapted.logits(llama.model.config, analysis.open_run(out).params(), TOKENS)
    np.testing.assert_allclose(
        found, adapted.merged_logits(c, whole, TOKENS), atol=1e-5
    )


def test_the_command_takes_adapters_there_and_back(llama, tmp_path, capsys):
    _, _, folder = adapted.written(llama, adapted.KINDS["lora"], tmp_path / "peft")
    run, back = str(tmp_path / "run"), str(tmp_path / "back")
    asked = ["import", str(llama.path), run, f"--adapters={folder}"]
    assert convert.main(asked) == 0
    asked = ["export", run, back, "--adapters", "--base=me/mine"]
    assert convert.main(asked) == 0
    assert "rank 3" in capsys.readouterr().out
    known = json.loads((tmp_path / "back" / peft.CONFIG).read_text())
    assert known["base_model_name_or_path"] == "me/mine"
    first, second = (
        tensor_files.open_file(x / peft.WEIGHTS) for x in (folder, tmp_path / "back")
    )
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        np.testing.assert_array_equal(tensor[...], second[name][...], err_msg=name)
