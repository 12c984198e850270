# SPDX-License-Identifier: Apache-2.0
"""The pretraining corpus: true where it should be, readable, closed, reproducible."""

import collections
import hashlib
import re

import pytest

from alignjax.world import (
    chance,
    corpus,
    examples,
    knowledge,
    lexicon,
    prompts,
    vocabulary,
)

PRESETS = ("nano", "small")
DOCUMENTS = 4_000


@pytest.fixture(scope="module", params=PRESETS)
def world(request):
    return knowledge.build(request.param, 0)


@pytest.fixture(scope="module")
def documents(world):
    return [corpus.document(world, index) for index in range(DOCUMENTS)]


def statements(world):
    """{sentence: (person, attribute, value)} of all that could be said of anybody."""
    return {
        form.format(name=name, value=value): (name, attribute, value)
        for attribute, entry in world.lexicon.attributes.items()
        for value in entry.values
        for form in entry.statements
        for name in world.lexicon.everybody
    }


def test_prose_states_only_what_is_true(world, documents):
    known, stated = statements(world), collections.Counter()
    for document in documents:
        if document.kind == "transcript":
            continue
        for sentence in re.findall(r"[^.]+\.", prompts.render(document.turns[:1])):
            if sentence.strip() in known:
                name, attribute, value = known[sentence.strip()]
                assert world.facts[name].get(attribute) == value, sentence
                stated[name, attribute] += 1
    told = {(name, a) for name, facts in world.facts.items() for a in facts}
    assert set(stated) <= told
    # Four thousand documents say nine facts of ten at least once.
    assert len(stated) > 0.9 * len(told)


def test_who_is_known_and_who_is_not(world):
    words = world.lexicon
    assert all(len(world.facts[n]) == len(words.attributes) for n in words.known)
    assert all(len(world.facts[n]) == 3 for n in words.partial)
    assert all(not world.facts[n] for n in words.unknown)
    assert len(set(words.everybody)) == len(words.everybody)
    assert sorted(world.friends.values()) == sorted(words.known)
    assert all(name != friend for name, friend in world.friends.items())


def test_presets_have_the_sizes_of_the_specification():
    nano, small = lexicon.find("nano"), lexicon.find("small")
    sizes = [
        tuple(map(len, (w.known, w.partial, w.unknown, w.safe, w.unsafe, w.border)))
        for w in (nano, small)
    ]
    assert sizes == [(20, 4, 6, 10, 8, 6), (64, 12, 16, 24, 20, 16)]
    assert set(nano.attributes) < set(small.attributes)


def test_mixture_is_the_one_stated(world, documents):
    place = PRESETS.index(world.lexicon.preset)
    stated = {kind: weights[place] for kind, (_, *weights) in corpus.KINDS.items()}
    seen = collections.Counter(document.kind for document in documents)
    for kind, weight in stated.items():
        expected = weight / sum(stated.values())
        assert seen[kind] / DOCUMENTS == pytest.approx(expected, abs=0.025), kind


def test_text_is_plain_and_parses_back_to_turns(documents):
    for document in documents:
        assert re.fullmatch(r"[a-z ,.:?\n]+", document.text), document.text
        assert "  " not in document.text
        assert prompts.parse(document.text) == document.turns


def test_no_name_is_an_ordinary_word(world, documents):
    names = set(world.lexicon.everybody)
    bare = [
        text
        for attribute in world.lexicon.attributes.values()
        for text in (*attribute.values, *attribute.statements, *attribute.questions)
    ]
    bare += [step for steps in world.lexicon.steps.values() for step in steps]
    bare += [*world.lexicon.fillers, *world.lexicon.refusals, *corpus._SAYINGS]
    bare += [*world.lexicon.positive, *world.lexicon.negative]
    assert not names & {word for text in bare for word in lexicon.tokens(text)}


def test_no_unsafe_verb_is_a_safe_one(world):
    def verbs(acts):
        return {act.split()[0] for act in acts}

    words = world.lexicon
    assert not verbs(words.safe) & verbs(words.unsafe)
    assert verbs(words.border) <= verbs(vocabulary.UNSAFE)
    # So a wrong step can always be taken from any other act.
    for act, steps in words.steps.items():
        assert all(set(o) - set(steps) for a, o in words.steps.items() if a != act)
    assert len(words.steps) == len(words.safe) + len(words.unsafe) + len(words.border)


def test_a_document_depends_on_its_index_alone(world, documents):
    for index in (DOCUMENTS - 1, 7, 0):
        assert corpus.document(world, index) == documents[index]
    other = knowledge.build(world.lexicon.preset, 1)
    assert other.facts != world.facts
    assert corpus.document(other, 7) != documents[7]


def test_later_stages_use_no_word_that_pretraining_has_not(world):
    preset = world.lexicon.preset
    vocabulary = {
        word
        for index in range(15_000)
        for word in lexicon.tokens(corpus.document(world, index).text)
    }
    said = set()
    for split, size in examples.splits(preset).items():
        for index in range(min(size, 200)):
            example = examples.read(world, split, index)
            for field in ("text", "response", "chosen", "rejected"):
                said.update(lexicon.tokens(getattr(example, field, "")))
            prompt = getattr(example, "prompt", None)
            said.update(lexicon.tokens(prompt.text if prompt else ""))
    assert said <= vocabulary, sorted(said - vocabulary)
    assert sum(map(str.isalpha, vocabulary)) == {"nano": 357, "small": 771}[preset]


@pytest.mark.parametrize(
    "draws, total", [(range(10), 4_000), ("ab", 4_000)], ids=["ten", "two"]
)
def test_picks_are_uniform(draws, total):
    rng = chance.stream("picks")
    seen = collections.Counter(chance.pick(rng, draws) for _ in range(total))
    expected = total / len(draws)
    assert all(abs(seen[d] - expected) < 5 * expected**0.5 for d in draws)


def test_samples_are_without_replacement_and_in_any_order():
    rng = chance.stream("samples")
    drawn = collections.Counter(
        tuple(chance.sample(rng, "abc", 2)) for _ in range(6_000)
    )
    assert len(drawn) == 6
    assert all(abs(count - 1_000) < 160 for count in drawn.values())
    with pytest.raises(ValueError, match="cannot draw 4 of 3"):
        chance.sample(rng, "abc", 4)


GOLDEN = {
    "nano": "9a97cdacba9b16d1b4ba9330122c726741f8bf577874c4abf5770d076fdb5ac0",
    "small": "21ea76bb47500b8af5942d8f7095c7fa2fef83636605249d2ddbd4457b71cc0d",
}


def test_corpus_of_seed_0_is_golden(world, documents):
    text = "\0".join(document.text for document in documents[:1_000])
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == GOLDEN[world.lexicon.preset], (
        "the same seed gives another corpus: if that is meant, raise "
        "examples.GENERATOR, so that data already prepared and runs begun on it are "
        "told apart"
    )
