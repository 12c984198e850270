# SPDX-License-Identifier: Apache-2.0
"""Each recipe from a folder through training to a folder that transformers loads."""

import numpy as np
import pytest
import recipes

from alignjax import analysis, errors

pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")

from alignjax import convert, train
from tests.fixtures import marks


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """`trained(recipe)`: the run after two steps, trained once."""
    root, done = tmp_path_factory.mktemp("recipes"), {}

    def run(recipe):
        if recipe not in done:
            workdir = root / recipe.replace("/", "_")
            section = recipes.section(recipe, root)
            assert train.train(section, workdir) == errors.DONE
            done[recipe] = analysis.open_run(workdir)
        return done[recipe]

    return run


QUICK = ["dpo/qwen25_05b_lora"]


@pytest.mark.parametrize("recipe", marks.slow_but(QUICK, recipes.STAND_INS))
def test_a_recipe_trains_and_what_it_exports_is_what_it_trained(
    recipe, trained, tmp_path
):
    run = trained(recipe)
    folder = recipes.GOLDEN / recipes.STAND_INS[recipe]
    tokens = np.arange(8, 40)[None] * 3 % 250
    before = analysis.open_run(folder).logits(tokens)
    after = run.logits(tokens)
    assert np.abs(after - before).max() > 1e-3  # two steps moved it
    out = str(tmp_path / "out")
    assert convert.main(["export", str(run.path), out]) == errors.DONE
    exported = analysis.open_run(tmp_path / "out")
    np.testing.assert_allclose(exported.logits(tokens), after, rtol=0, atol=3e-5)
    # In the same words: where the recipe has a format of its own, that goes along.
    asked = run.prompt_ids("what is the sea")
    assert exported.prompt_ids("what is the sea") == asked
    beside_transformers(recipe, tmp_path / "out", tokens, run, after)


def beside_transformers(recipe, folder, tokens, run, logits):
    """What transformers computes from the exported folder, where it is installed."""
    try:
        import torch
        import transformers
    except ImportError:
        return
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    assert tok("the sea", add_special_tokens=False).input_ids == list(
        run.tokenizer.encode("the sea")
    )
    if recipe.startswith("reward"):
        load = transformers.AutoModelForSequenceClassification.from_pretrained
        model = load(folder, attn_implementation="eager", dtype=torch.float32).eval()
        assert model.config.num_labels == 1
        return
    from tools.golden import theirs

    model = theirs.load(folder)
    np.testing.assert_allclose(theirs.logits(model, tokens), logits, rtol=0, atol=5e-5)


@pytest.mark.parametrize("recipe", ["dpo/qwen25_05b_lora"])
def test_an_adapters_run_saves_adapters_alone(recipe, trained):
    run = trained(recipe)
    saved = {n for n in run.meta()["leaves"] if n.startswith("params/")}
    assert saved and all("/lora_" in name for name in saved)
