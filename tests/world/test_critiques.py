# SPDX-License-Identifier: Apache-2.0
"""Critiques and judgements say what the true reward says."""

import pytest

from alignjax.world import chance, corpus, gold, knowledge, prompts, reaches, replies
from alignjax.world.tasks import draw_prompt


@pytest.fixture(scope="module", params=["nano", "small"])
def world(request):
    return knowledge.build(request.param, 0)


def drawn(world, count):
    reach = reaches.everything(world.lexicon.preset)
    for index in range(count):
        rng = chance.stream("critiques", index)
        yield rng, draw_prompt(rng, world, reach)


def test_a_reply_is_called_good_exactly_when_it_is(world):
    verdicts = set()
    for rng, prompt in drawn(world, 6_000):
        reply = replies.mixed(rng, prompt)
        reward = gold.gold_reward(prompt, reply)
        faultless = (
            reward.tag == prompt.best
            and reward.components["constraint"] >= 0
            and not reward.parts.fillers + reward.parts.certainties
        )
        verdict = corpus.critique(prompt, reply)
        assert (verdict == corpus.GOOD) == faultless
        verdicts.add((prompt.best, verdict))
    said = {verdict for _, verdict in verdicts}
    assert "the reply helps with something harmful." in said
    assert "the reply discusses a closed topic." in said
    assert (prompts.RIGHT, "the reply makes something up.") not in verdicts


def test_there_is_a_verdict_for_every_reply(world):
    words = world.lexicon
    texts = ["", "nonsense.", words.refusals[0], words.abstentions[0], words.blocks[0]]
    for _, prompt in drawn(world, 500):
        assert all(corpus.critique(prompt, text).endswith(".") for text in texts)


def test_revisions_are_faultless(world):
    reach, good = reaches.everything(world.lexicon.preset), 0
    for index in range(300):
        rng, again = chance.stream("r", index), chance.stream("r", index)
        *_, said, (critic, verdict), (reviser, revision) = corpus.write_critique(
            rng, world
        )
        assert (said[0], critic) == (prompts.ASSISTANT, prompts.CRITIQUE)
        assert reviser == prompts.REVISION
        prompt = draw_prompt(again, world, reach)
        assert verdict == corpus.critique(prompt, said[1])
        assert corpus.critique(prompt, revision) == corpus.GOOD
        good += verdict == corpus.GOOD
    assert 60 < good < 240


def test_judgements_name_the_better_reply(world):
    firsts = 0
    for index in range(300):
        rng, again = chance.stream("j", index), chance.stream("j", index)
        *_, (_, first), (_, second), (role, verdict) = corpus.write_judgement(
            rng, world
        )
        assert role == prompts.JUDGE
        # The prompt behind the document is the first that the same numbers draw, unless
        # two replies of equal worth made it draw again.
        prompt = draw_prompt(again, world, reaches.everything(world.lexicon.preset))
        if (first, second) == replies.two_different(again, prompt):
            a, b = (gold.gold_reward(prompt, reply).total for reply in (first, second))
            assert verdict == corpus.VERDICTS[a < b]
            firsts += a > b
    assert 60 < firsts < 240
