# SPDX-License-Identifier: Apache-2.0
"""One rollout: what is drawn, and how it becomes a batch."""

import dataclasses
import gc
import json
import weakref

import jax
import numpy as np
import pytest

from alignjax import rewards
from alignjax.distributed import sharding
from alignjax.experiment import build, initial
from alignjax.experiment import rollouts as online
from alignjax.rollouts import drawing, measuring, rollout, source
from alignjax.sampling import batches as batching
from tests.rollouts import small


def same(a, b):
    equal = lambda x, y: np.array_equal(np.asarray(x), np.asarray(y))
    return all(jax.tree.leaves(jax.tree.map(equal, a, b)))


def test_a_rollout_is_a_function_of_its_number(experiment, made):
    rollouts = experiment[0].rollouts
    again, _, _ = small.make(experiment, rollouts)
    assert same(again, made[0])
    other, _, _ = small.make(experiment, rollouts, 6)
    assert not same(
        other.responses.sequences.inputs, made[0].responses.sequences.inputs
    )


def test_tokens_do_not_depend_on_the_rows_drawn_at_one_time(experiment, made):
    rollouts = experiment[0].rollouts
    few = dataclasses.replace(rollouts, sampler=rollouts.sampler._replace(rows=8))
    batch, _, _ = small.make(experiment, few)
    inputs = lambda batch: batch.responses.sequences.inputs
    assert np.array_equal(inputs(batch), inputs(made[0]))


def test_what_counts_are_the_tokens_that_were_drawn(made):
    """Terminators do, prompts and padding do not, whatever their ids are."""
    batch, figures, _ = made
    lengths_BK = batch.responses.lengths[:, 0]
    assert np.array_equal(batch.then.action.sum(-1), lengths_BK)
    learned = batch.responses.sequences.weights.sum(-1)  # padded: a row a response
    assert np.array_equal(learned, lengths_BK)
    assert figures["length"] == pytest.approx(lengths_BK.mean())
    assert (batch.then.advantage[~batch.then.action] == 0).all()
    assert (batch.token[~batch.then.action] == 0).all()


def test_shared_rows_are_as_long_as_their_groups(experiment, made):
    """The same responses, one after the other, with no room between them."""
    rollouts = dataclasses.replace(experiment[0].rollouts, shared=True)
    batch, _, _ = small.make(experiment, rollouts)
    padded, *_ = made
    used = (batch.responses.sequences.segment_ids > 0).sum(-1)
    length = batch.responses.sequences.inputs.shape[-1]
    assert used.max() == length
    assert np.array_equal(batch.then.action, padded.then.action)
    for name in ("old", "reference", "advantage"):
        a, b = (getattr(x.then, name) for x in (batch, padded))
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_group_is_the_responses_to_one_prompt(made):
    """Each response is compared with those to the same prompt, and with no other."""
    batch, *_ = made
    first = batch.then.advantage[..., 0]
    # RLOO: within a group the advantages add to 0.
    np.testing.assert_allclose(first.sum(1), 0, atol=1e-5)
    prompts = batch.responses.sequences.inputs[:, :, 0]
    assert (prompts == prompts[:, :1]).all()


def test_prompts_have_the_room_that_responses_leave(experiment):
    """And not a token more."""
    run = experiment[0]
    longest = run.rollouts.prompts.longest
    for room in (longest, longest - 1):
        c = dataclasses.replace(run.config, length=room + 12)
        kept = online.streams(c, run.tokenizer)[0].longest
        assert kept <= room and (kept == longest) == (room == longest)


def test_text_is_decoded_where_a_reward_reads_it(experiment):
    def decoded(*kinds):
        ids = []
        text = lambda row: ids.append(row) or "a"
        sections = {f"r{i}": kind for i, kind in enumerate(kinds)}
        own = dataclasses.replace(
            experiment[0].rollouts, text=text, rewards=rewards.build(sections, "")
        )
        small.make(experiment, own)
        return len(ids)

    length = {"kind": "length", "per_token": 0.1}
    assert decoded(length) == 0
    assert decoded(length, {"kind": "repetition", "words": 1}) == 32


def test_tokens_are_never_made_of_text_again(experiment, made):
    """However little of a response its text has."""
    lossy = dataclasses.replace(experiment[0].rollouts, text=lambda ids: "")
    batch, *_ = small.make(experiment, lossy)
    inputs = lambda batch: batch.responses.sequences.inputs
    assert np.array_equal(inputs(batch), inputs(made[0]))


def test_equal_prompts_are_groups_of_their_own(experiment):
    rollouts = small.with_rewards(
        experiment, lambda a: [float(i) for i in range(len(a))]
    )
    (one,) = rollouts.prompts.take(0, 1)

    class Same(type(rollouts.prompts)):
        def take(self, first, count):
            return [one] * count

    stream = Same(*rollouts.prompts)
    batch, *_ = small.make(experiment, dataclasses.replace(rollouts, prompts=stream))
    first = batch.then.advantage[..., 0]
    np.testing.assert_allclose(
        first, np.tile([-2, -2 / 3, 2 / 3, 2], (8, 1)), atol=1e-4
    )
    # Each with noise of its own, in this rollout and in another one.
    other, *_ = small.make(experiment, dataclasses.replace(rollouts, prompts=stream), 6)
    rows = np.concatenate([b.responses.sequences.targets for b in (batch, other)])
    assert len(np.unique(rows.reshape(64, -1), axis=0)) > 60


def test_the_stop_tokens_are_those_of_the_template_or_of_the_tokenizer(
    folder, monkeypatch
):
    stops = lambda run: np.flatnonzero(run.rollouts.sampler.stops_V).tolist()
    whole = initial.load_tokenizer
    several = lambda *arguments: whole(*arguments)._replace(stop_ids=(65, 66))
    monkeypatch.setattr(initial, "load_tokenizer", several)
    assert stops(build.build(small.section(folder))) == [small.STOP]
    prompts = folder / "prompts.jsonl"
    lines = [json.dumps({"prompt": f"a{i}"}) for i in range(40)]
    prompts.write_text("\n".join(lines))
    rows = dict(kind="jsonl", path=str(prompts))
    rows["format"] = "alignjax.data.formats:as_it_is"
    section = small.section(folder, data__chat=None, data__sources={"prompts": rows})
    run = build.build(section)
    assert stops(run) == sorted({65, 66, run.tokenizer.eos_id})


def test_each_stop_token_ends_a_response(experiment):
    """All of several do, and the one drawn is an action that counts."""
    sampler = small.with_many_stops(experiment)
    rollouts = dataclasses.replace(experiment[0].rollouts, sampler=sampler)
    batch, figures, _ = small.make(experiment, rollouts)
    last = batch.responses.lengths[:, 0] - 1
    rows = batch.responses.sequences
    begin = (rows.weights > 0).argmax(-1)
    tokens = np.take_along_axis(rows.targets, (begin + last)[..., None], -1)[..., 0]
    stopped = sampler.stops_V[tokens]
    assert figures["finished"] == stopped.mean() > 0.5
    assert len(np.unique(tokens[stopped])) > 1


def test_figures_of_tokens_do_not_count_padding(experiment):
    """KL and entropy of two responses of 1 and 3 tokens in a room of 4."""
    measured = {
        "kl": np.array([[[0.5, 0, 0, 0], [0.1, 0.2, 0.4, 0]]], np.float32),
        "entropy": np.array([[[1.0, 0, 0, 0], [2.0, 3.0, 4.0, 0]]], np.float32),
    }
    drawn = drawing.Drawn([[7], [7, 8, 9]], [], np.ones(2, bool))
    figures = rollout._kl_figures(measured, drawn)
    expected = {"kl/reference": 0.6, "kl/token": 0.3, "entropy": 2.5}
    assert figures == pytest.approx(expected)
    same = rollout._kl_figures(measured | {"kl": -1e-9 * measured["kl"]}, drawn)
    assert same["kl/reference"] == same["kl/token"] == 0
    # And what is measured is 0 there, and an entropy of the whole vocabulary before.
    run, models = experiment[0], small.models(*experiment)
    ids = [[65], [66, 67, 68]] * 16
    responses, room = run.rollouts._responses(run.rollouts.prompts.take(0, 8), ids, 4)
    with sharding.use(run.mesh, run.rules):
        measured = run.rollouts._measured(responses, room, models)
    there_GKT = np.arange(room) < np.array([1, 3, 1, 3])[:, None]
    assert (measured["entropy"][:, there_GKT] > 0.1).all()
    for name in ("entropy", "kl"):
        assert not measured[name][:, ~there_GKT].any()


def test_a_source_keeps_one_rollout_alone(experiment):
    """Neither arrays, of the host or of devices, nor programs of those before."""
    run, state, frozen = experiment
    batches, last, counts = source.Source(run.rollouts, frozen, 0), None, []
    with sharding.use(run.mesh, run.rules):
        for step in range(6):
            batches(step, state)
            gc.collect()
            assert last is None or last() is None
            last = weakref.ref(batches._batch.then.old)
            programs = (measuring.log_probs, batching._advance)
            sizes = [program._cache_size() for program in programs]
            counts.append((len(jax.live_arrays()), *sizes))
    assert counts[3] == counts[4] == counts[5]


@pytest.mark.parametrize("shared", [False, True])
def test_tokens_of_rates_are_read_by_the_model(experiment, shared):
    """Prompts, once or with each response, and responses; no padding."""
    run, state, frozen = experiment
    rollouts = dataclasses.replace(run.rollouts, shared=shared)
    batches = source.Source(rollouts, frozen, 0)
    with sharding.use(run.mesh, run.rules):
        batch = batches(0, state)
    prompts = sum(len(prompt.ids) - 1 for prompt in run.rollouts.prompts.take(0, 8))
    responses = int(batch.responses.lengths.sum())
    assert batches.tokens(0) == prompts * (1 if shared else 4) + responses
    with pytest.raises(KeyError):  # not made yet
        batches.tokens(1)


@pytest.mark.parametrize("shared", [False, True])
def test_responses_of_any_length_make_batches_of_few_shapes(experiment, shared):
    """For each of which programs are compiled."""
    run = experiment[0].rollouts
    longer = run.sampler._replace(room=100)
    rollouts = dataclasses.replace(run, sampler=longer, shared=shared)
    prompts, shapes = run.prompts.take(0, 8), set()
    for longest in range(1, 101):
        ids = [[1] * (1 + i % longest) for i in range(32)]
        batch, room = rollouts._responses(prompts, ids, 4)
        assert max(map(len, ids)) <= room <= 100
        (order_BP,), T = rollouts.rows(batch, [np.arange(8)], 1)
        batch = rollouts.in_rows(batch, order_BP, T)
        shapes.add((batch.sequences.inputs.shape, room))
    assert len(shapes) <= (12 if shared else 7)
