# SPDX-License-Identifier: Apache-2.0
"""Runs of dialogues in a chat template: trained, asked, compared and assessed."""

import json

import pytest
from stages import refused, run

from alignjax import analysis, generate
from alignjax.world.assessment import run_models
from configs.smoke import dpo, pretrain, sft

pytestmark = pytest.mark.slow  # four runs

ASKED = "what is two plus three?"
# The format "roles" as somebody else may have written it.
TEMPLATE = (
    "{% for m in messages %}{{ '<' + m.role + '> ' + m.content + '<end>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """By roles, by a template file that is gone, and preferences after that."""
    folder = tmp_path_factory.mktemp("templates")
    base = {"init.run": str(run(folder, "base", pretrain, steps=6).path)}
    roles = run(folder, "roles", sft, steps=6, **base)
    path = folder / "own.jinja"
    path.write_text(TEMPLATE)
    own = {"data.chat": str(path)}
    tuned = run(folder, "tuned", sft, steps=6, **base, **own)
    path.unlink()
    preferred = run(folder, "dpo", dpo, steps=6, **{"init.run": str(tuned.path)}, **own)
    return folder, roles, tuned, preferred


def test_the_same_tokens_by_a_template_are_the_same_run(runs):
    _, roles, tuned, preferred = runs
    names = ("loss", "grad_norm")
    for ours, theirs in zip(tuned.metrics(), roles.metrics(), strict=True):
        assert [ours[name] for name in names] == [theirs[name] for name in names]
    assert tuned.digest() == roles.digest()
    assert preferred.metrics()[0]["loss"] == pytest.approx(0.6931472, abs=1e-6)


def test_it_is_asked_in_its_template(runs, capsys):
    _, roles, tuned, _ = runs
    assert tuned.prompt_ids(ASKED) == roles.prompt_ids(ASKED)
    options = dict(max_tokens=6, temperature=0.0)
    ours, theirs = (one.reply([ASKED], **options)[0] for one in (tuned, roles))
    assert (list(ours.ids), ours.text) == (list(theirs.ids), theirs.text)
    told = []
    for one in (tuned, roles):
        flags = ["--temperature=0", "--max_tokens=6", "--json", f"--prompt={ASKED}"]
        assert generate.main([f"--run={one.path}", *flags]) == 0
        told.append(json.loads(capsys.readouterr().out)["ids"])
    assert told[0] == told[1]


def test_it_is_assessed_in_its_template(runs):
    _, roles, tuned, _ = runs
    ours, theirs = run_models.run_format(tuned), run_models.run_format(roles)
    turns = (("user", ASKED),)
    assert ours.name.endswith("own.jinja")
    assert ours.prompt(turns) == theirs.prompt(turns)
    assert ours.response("five") == theirs.response("five")
    assert ours.stop[0] == theirs.stop[0]
    assert ours.text(ours.response("five")) == "five"
    document = "user: what?\nassistant: five"
    assert list(ours.document(document)) == list(theirs.document(document))


def test_a_template_that_the_tokenizer_cannot_write_is_refused(runs):
    folder, roles, *_ = runs
    start = {"init.run": str(roles.path)}
    assert "'llama3' needs <|start" in refused(
        folder, sft, **start, **{"data.chat": "llama3"}
    )
    gone = refused(folder, sft, **start, **{"data.chat": "gone.jinja"})
    assert "data.chat: gone.jinja: [Errno 2]" in gone
    assert analysis.open_run(folder / "tuned").chats.endswith("own.jinja")
