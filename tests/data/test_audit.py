# SPDX-License-Identifier: Apache-2.0
"""Rows as they should be have no fault; each fault that is put into them is named."""

import copy

import groups
import numpy as np
import pytest
import test_chat

from alignjax.data import audit, loader, records
from alignjax.data.chat import templates

TOK = groups.TOK
END = TOK.control[templates.CONTROL[-1]]
DIALOGUE = records.Chat(test_chat.DIALOGUE)
SPELLED = records.Chat((("user", "is it <user>?"), ("assistant", "yes")))


def load(rows: str = "dialogue") -> records.Source:
    found = {"dialogue": DIALOGUE, "spelled": SPELLED}[rows]
    several = [(f"r:{i}", found._replace(weight=i + 1.0)) for i in range(3)]
    return records.Source("audit", {"rows": rows}, None, lambda: several)


def dialogues(place, length=200, rows="dialogue", bos=True, **options):
    sources = {"a": {"kind": "test_audit:load", "rows": rows}}
    options = dict(sources=sources, validation_fraction=0, chat="roles") | options
    cfg = loader.DataConfig(**options, bos=bos, workers=1)
    data = loader.build(cfg, TOK, length=length, seed=0, cache_dir=place)
    return data.epoch_rows(np.arange(data.num_rows + 1))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return dialogues(tmp_path_factory.mktemp("audit"))


@pytest.fixture(scope="module", params=groups.LAYOUTS)
def pairs(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("audit")
    options = dict(bos=True, **groups.LAYOUTS[request.param])
    data = groups.build(place, {"a": dict(turns=2)}, length=200, **options)
    return data.epoch_rows(np.arange(data.num_rows + 1))


def test_rows_as_they_should_be(good, pairs, tmp_path):
    assert audit.faults(good, TOK) == []
    assert audit.faults(pairs, TOK) == []
    assert audit.faults(dialogues(tmp_path, train_on="last", bos=False), TOK) == []
    options = dict(data="labels", mismatched=True, length=200)
    for layout in groups.LAYOUTS.values():
        data = groups.build(tmp_path, **options, **layout)
        assert audit.faults(data.rows(np.arange(8)), TOK) == []


def first(rows, name, inside=True):
    """Where the first row has this target, of a reply that is trained or not."""
    target = rows["targets"][0] == TOK.control.get(name, name)
    return np.flatnonzero(target & ((rows["weights"][0] > 0) == inside))[0]


def no_terminator(rows):
    rows["weights"][rows["targets"] == END] = 0


def two_terminators(rows):
    at = first(rows, "<end>")
    rows["targets"][0, at + 1] = END
    rows["inputs"][0, at + 2] = END


def user_trained(rows):
    at = first(rows, "<user>", inside=False)
    rows["weights"][0, at + 2] = 1


def prompt_trained(rows):
    rows["weights"][0, first(rows, "<assistant>", inside=False)] = 1


def padding_trained(rows):
    rows["weights"][-1, ..., 3] = 1


def two_starts(rows):
    rows["targets"][0, 0] = rows["inputs"][0, 1] = TOK.bos_id


def leak(rows):
    rows["segment_ids"][:] = rows["segment_ids"] > 0


def unshifted(rows):
    rows["targets"][:] = rows["inputs"]


def positions(rows):
    rows["positions"][:] = np.arange(rows["positions"].shape[1])


def truncated(rows):
    # The row ends where a reply still goes on.
    at = np.flatnonzero(rows["segment_ids"][0] == 1)[-1]
    for value in rows.values():
        value[0, at] = 0


def reply_lost(rows):
    rows["weights"][0, first(rows, "<assistant>", inside=False) + 1] = 0


def nothing_trained(rows):
    rows["weights"][:] = 0


@pytest.mark.parametrize(
    "harm, name",
    [
        (no_terminator, "no terminator"),
        (two_terminators, "two terminators"),
        (user_trained, "user trained"),
        (prompt_trained, "prompt trained"),
        (padding_trained, "padding trained"),
        (two_starts, "two starts"),
        (leak, "leak"),
        (unshifted, "leak"),
        (positions, "leak"),
        (truncated, "truncated"),
        (reply_lost, "reply lost"),
        (nothing_trained, "nothing trained"),
    ],
)
def test_every_fault_is_named(good, harm, name):
    rows = copy.deepcopy(good)
    harm(rows)
    found = audit.faults(rows, TOK)
    assert found and any(line.startswith(f"{name}: row ") for line in found)
    if harm in (user_trained, prompt_trained, padding_trained, reply_lost, truncated):
        assert len(found) == 1, found  # and nothing else is


def test_a_template_inside_of_a_text_is_named(tmp_path):
    (line, *_) = audit.faults(dialogues(tmp_path, rows="spelled"), TOK)
    assert line.startswith("template inside: row 0, segment 1: the text of the user")
    assert "spells '<user>'" in line


def test_a_split_dialogue_is_truncated(tmp_path):
    found = audit.faults(dialogues(tmp_path, length=20), TOK)
    reasons = [line for line in found if line.startswith("truncated")]
    assert any("has no <end>" in line for line in reasons)
    assert any("begins inside of a turn" in line for line in reasons)


def shift_responses(rows):
    rows["responses"][:] = np.roll(rows["responses"], 1, -1)


def one_branch(rows):
    rows["branches"][:] = rows["branches"] > 0


def trained_prompts(rows):
    rows["weights"][rows["segment_ids"] > 0] = 1


def cut_response(rows):
    """The last token of every response is lost, as when a row is cut."""
    for i, r in np.ndindex(rows["inputs"].shape[:2]):
        number = rows["responses"][i, r]
        lost = np.flatnonzero((number > 0) & (number != np.append(number[1:], 0)))
        for name in ("inputs", "targets", "weights", "segment_ids", "responses"):
            rows[name][i, r, lost] = 0


def first_of_response(rows):
    number = rows["responses"]
    begins = (number > 0) & (number != np.roll(number, 1, -1))
    rows["weights"][begins] = 0


def silent_group(rows):
    rows["group_weights"][0, 0] = 0


@pytest.mark.parametrize(
    "harm, name",
    [
        (no_terminator, "no terminator"),
        (trained_prompts, "prompt trained"),
        (trained_prompts, "user trained"),
        (shift_responses, "prompt trained"),
        (padding_trained, "padding trained"),
        (cut_response, "truncated"),
        (cut_response, "lengths"),
        (first_of_response, "reply lost"),
        (silent_group, "lengths"),
        (nothing_trained, "nothing trained"),
    ],
)
def test_every_fault_of_groups_is_named(pairs, harm, name):
    rows = copy.deepcopy(pairs)
    harm(rows)
    found = audit.faults(rows, TOK)
    assert any(line.startswith(f"{name}: row 0") for line in found) or (
        harm is padding_trained and found[0].startswith("padding trained: row ")
    )


BRANCHED = [
    name for name, options in groups.LAYOUTS.items() if "share_prompt" in options
]


@pytest.mark.parametrize("pairs", BRANCHED, indirect=True)
def test_branches_that_see_one_another_are_named(pairs):
    rows = copy.deepcopy(pairs)
    one_branch(rows)
    found = audit.faults(rows, TOK)
    assert any(line.startswith("leak: row 0") for line in found)


def test_plain_text_is_looked_at_too(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one two three\n" * 30)
    sources = {"a": {"kind": "text", "path": str(path)}}
    cfg = loader.DataConfig(sources=sources, validation_fraction=0, bos=True)
    data = loader.build(cfg, TOK, length=64, seed=0, cache_dir=tmp_path)
    rows = data.epoch_rows(np.arange(data.num_rows))
    assert audit.faults(rows, TOK, format=None) == []
    leak(rows)
    rows["targets"][0, 0] = rows["inputs"][0, 1] = TOK.bos_id
    rows["positions"][-1] = 0
    names = {line.partition(":")[0] for line in audit.faults(rows, TOK, format=None)}
    assert names == {"two starts", "leak"}
