# SPDX-License-Identifier: Apache-2.0
"""Generation: its log-probabilities, its independence of batches, its refusals."""

import collections
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alignjax import config, models, sampling, sharding, trees
from alignjax.data import tokenizer
from alignjax.sampling import completions, distribution, loop, text
from alignjax.types import Sequences

# 256 bytes, then start 256, end 257 and a role 258; the embedding has more rows.
TOKENIZER = tokenizer.from_files("bytes", {"bytes.json": b'{"control": ["<user>"]}'})
BOS, EOS, ROLE, ROWS = 256, 257, 258, 264
SHAPE = dict(family="llama", name="nano", d_model=32, layers=2, heads=4, d_ff=64)

VARIANTS = {
    "llama": {},
    "gqa, qk_norm, unrolled": dict(kv_heads=2, qk_norm=True, unroll=2),
    "mqa, window, untied": dict(kv_heads=1, window=5, tied=False),
    "learned, biases": dict(
        **dict(positions="learned", norm="layernorm", activation="gelu"),
        **dict(attention_bias=True, mlp_bias=True),
    ),
    "softcaps": dict(logit_softcap=2.0, attention_softcap=1.5),
}
FILTERS = {
    "none": {},
    "temperature": dict(temperature=0.7),
    "top_k": dict(temperature=1.3, top_k=7),
    "top_p": dict(top_p=0.6),
    "min_p": dict(min_p=0.2),
    "all": dict(temperature=0.9, top_k=40, top_p=0.9, min_p=0.05),
}
PROMPTS = ["", "a", "Once upon a time", "Zwölf Boxkämpfer jagen Viktor"]


@functools.cache
def nano(**overrides):
    """A model and parameters whose distributions are neither flat nor peaked."""
    model = models.build(SHAPE | overrides, ROWS)

    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0)))
    random = np.random.default_rng(0)

    def draw(name, x):
        # Larger than at first, biases included, so that all of it shows.
        return jnp.float32(name.endswith("scale") + 0.2 * random.normal(size=x.shape))

    return model, trees.map_with_name(draw, shapes)


def generate(prompts, model_and_params=None, **options):
    model, params = model_and_params or nano()
    return sampling.generate(
        model, params, TOKENIZER, prompts, **{"max_tokens": 12, **options}
    )


def teacher_forced(model, params, row):
    """Logits [len(row.ids), V] of the tokens of a response, in one pass over it all."""
    tokens, count = row.prompt_ids + row.ids, len(row.prompt_ids)
    padded = np.array([tokens + [0] * (96 - len(tokens))], np.int32)
    positions = np.arange(96)[None]
    whole = Sequences(padded, padded, None, positions < len(tokens), positions)
    logits = np.asarray(all_logits(model, params, whole)[0], np.float64)
    return logits[count - 1 : len(tokens) - 1]


@functools.partial(jax.jit, static_argnums=0)
def all_logits(model, params, sequences):
    return model.unembed(params, model.hidden(params, sequences))


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def stated(logits, temperature=1.0, top_k=None, top_p=None, min_p=None):
    """The documented distribution of one row of logits, step by step, in numpy."""
    logits = np.where(np.arange(ROWS) <= EOS, logits, -np.inf)
    logits[BOS] = -np.inf
    if temperature == 0:
        return np.where(np.arange(ROWS) == logits.argmax(), 0.0, -np.inf)
    logits = logits / temperature
    order = np.argsort(-logits, kind="stable")[:top_k]
    probs = np.exp(log_softmax(logits[order]))
    keep = np.ones(len(order), bool)
    if top_p is not None:
        keep = np.concatenate([[0.0], np.cumsum(probs)[:-1]]) < top_p
    if min_p is not None:
        keep &= probs >= min_p * probs[0]
    out = np.full(ROWS, -np.inf)
    out[order[keep]] = log_softmax(logits[order[keep]])
    return out


def assert_same(rows, others):
    assert len(rows) == len(others)
    for row, other in zip(rows, others, strict=True):
        assert row._replace(logprobs=0, model_logprobs=0) == other._replace(
            logprobs=0, model_logprobs=0
        )
        np.testing.assert_allclose(row.logprobs, other.logprobs, atol=1e-5)
        np.testing.assert_allclose(row.model_logprobs, other.model_logprobs, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logprobs_are_those_of_teacher_forcing(variant):
    model, params = nano(**VARIANTS[variant])
    rows = generate(PROMPTS, (model, params), temperature=0.8, top_k=50)
    assert [len(row.ids) for row in rows if row.finish_reason == "length"]
    for row in rows:
        logits = teacher_forced(model, params, row)
        picked = np.arange(len(row.ids)), row.ids
        np.testing.assert_allclose(
            row.model_logprobs, log_softmax(logits)[picked], atol=1e-5
        )
        expected = np.stack([stated(x, temperature=0.8, top_k=50) for x in logits])
        np.testing.assert_allclose(row.logprobs, expected[picked], atol=1e-5)
        assert row.logprobs.dtype == row.model_logprobs.dtype == np.float32


@pytest.mark.parametrize("filters", [*FILTERS.values(), dict(temperature=0)], ids=str)
def test_every_filter_states_its_distribution(filters):
    model, params = nano()
    for row in generate(PROMPTS, **filters):
        logits = teacher_forced(model, params, row)
        expected = [
            stated(x, **filters)[i] for x, i in zip(logits, row.ids, strict=True)
        ]
        np.testing.assert_allclose(row.logprobs, expected, atol=1e-5)


def test_greedy_takes_the_maximum_and_says_certain():
    model, params = nano()
    for row in generate(PROMPTS, temperature=0, seeds=[9, 9, 9, 9]):
        logits = teacher_forced(model, params, row)
        assert row.ids == [stated(x).argmax() for x in logits]
        assert not row.logprobs.any()
        assert (row.model_logprobs < 0).all()


def test_a_row_does_not_depend_on_its_batch():
    prompts = [*PROMPTS, "abc", "b", "Once upon a time"]
    seeds = [3, 1, 4, 1, 5, 2**32 - 1, 4]
    whole = generate(prompts, seeds=seeds)
    assert whole[2].ids == whole[6].ids  # the same prompt and seed
    assert len({tuple(row.ids) for row in whole}) == 6
    alone = [
        generate([prompt], seeds=[seed])[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    assert_same(alone, whole)
    assert_same(generate(prompts[::-1], seeds=seeds[::-1])[::-1], whole)
    assert_same(generate(prompts, seeds=seeds, batch_size=4), whole)


def test_a_row_does_not_depend_on_the_room_it_has():
    for row, other in zip(
        generate(PROMPTS), generate(PROMPTS, max_tokens=40), strict=True
    ):
        assert other.ids[:12] == row.ids
        np.testing.assert_allclose(other.logprobs[:12], row.logprobs, atol=1e-5)


def test_the_default_seeds_are_counted_from_0():
    rows = generate(["Once upon a time there"] * 5)
    assert len({tuple(row.ids) for row in rows}) == 5
    assert_same(rows, generate(["Once upon a time there"] * 5, seeds=range(5)))


def test_prompts_of_tokens_are_taken_as_they_are():
    text_row, token_row = (generate(["ab"])[0], generate([[BOS, 97, 98]])[0])
    assert_same([text_row], [token_row])
    assert generate([np.array([97, 98])])[0].prompt_ids == [97, 98]
    assert generate([]) == []


def test_control_tokens_and_empty_rows_are_never_drawn():
    model, params = nano()
    # The model wants nothing but these.
    wanted = jnp.zeros((ROWS, 32)).at[BOS].set(9).at[ROLE:].set(9).at[:BOS, 0].set(1e-3)
    for filters in (*FILTERS.values(), dict(temperature=0)):
        rows = generate(PROMPTS, (model, params | {"embed": wanted}), **filters)
        assert {i for row in rows for i in row.ids} <= {*range(256), EOS}


def test_stop_tokens_end_a_row_and_its_text():
    rows = generate(PROMPTS, stop_ids=list(range(128)))
    for row in rows:
        assert row.finish_reason == "stop_token" and row.stop == row.ids[-1] < 128
        assert all(i >= 128 for i in row.ids[:-1])
        assert row.text == bytes(row.ids[:-1]).decode(errors="replace")
        assert len(row.logprobs) == len(row.model_logprobs) == len(row.ids)
    assert len({len(row.ids) for row in rows}) > 1


@functools.cache
def constant(*cycle):
    """A model that goes round `cycle`, where its place is the position and no more.

    What follows a start of document alone is the first of the cycle.
    """
    room = 64
    section = SHAPE | dict(positions="learned", tied=False, d_model=room)
    model = models.build(section | dict(max_length=room, heads=2, layers=1), ROWS)
    params = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype),
        nn.unbox(jax.eval_shape(model.init, jax.random.key(0))),
    )
    params["position_embed"] = jnp.eye(room)
    params["norm"]["scale"] = jnp.ones(room)
    following = np.resize(cycle, room)
    params["head"] = jnp.zeros((room, ROWS)).at[np.arange(room), following].set(10.0)
    return model, params


def test_the_end_of_document_stops_by_default():
    model_and_params = constant(97, 98, EOS)
    (row,) = generate([""], model_and_params, temperature=0)
    assert row.ids == [97, 98, EOS] and row.text == "ab"
    assert (row.finish_reason, row.stop) == ("stop_token", EOS)
    (row,) = generate([""], model_and_params, temperature=0, stop_ids=[98])
    assert row.ids == [97, 98] and row.text == "a" and row.stop == 98
    (row,) = generate([""], model_and_params, temperature=0, max_tokens=2)
    assert row.text == "ab" and (row.finish_reason, row.stop) == ("length", None)
    (row,) = generate([[BOS, 97, 98]], model_and_params, temperature=0)
    assert row.ids == [EOS] and row.text == ""


@pytest.mark.parametrize(
    "string, stop, expected, used, which",
    [
        ("hello world, ", ["wor"], "hello ", 9, "wor"),
        ("hello world, ", [", h", "zzz"], "hello world", 14, ", h"),
        ("abcdef", ["bcd", "b"], "a", 2, "b"),  # complete first
        ("abcdef", ["cd", "bcd"], "a", 4, "bcd"),  # complete together: the leftmost
        ("na na café ", ["é"], "na na caf", 11, "é"),
        ("tick 🚀 ", ["🚀"], "tick ", 9, "🚀"),
        ("0123456789abcdefgh", ["g"], "0123456789abcdef", 17, "g"),  # second chunk
        ("0123456789abcdefgh", ["fg"], "0123456789abcde", 17, "fg"),  # across chunks
        ("abc", ["abd"], "abcabcabcabcabcabcabcabcabcabc", 30, None),
    ],
)
def test_stop_strings_cut_the_text(string, stop, expected, used, which):
    options = dict(max_tokens=30, temperature=0, stop=stop)
    (row,) = generate([""], constant(*string.encode()), **options)
    assert row.text == expected
    assert len(row.ids) == len(row.logprobs) == len(row.model_logprobs) == used
    assert bytes(row.ids) == (string.encode() * 30)[:used]
    assert (row.stop, row.finish_reason) == (
        which,
        "stop_string" if which else "length",
    )
    pieces = list(
        sampling.stream(*constant(*string.encode()), TOKENIZER, "", **options, chunk=1)
    )
    assert "".join(pieces) == expected and len(pieces) > 1 - (len(expected) < 2)


def test_stop_strings_do_not_depend_on_the_batch():
    options = dict(max_tokens=40, stop_ids=[])
    free = generate(PROMPTS, **options)
    options["stop"] = [next(c for c in row.text[7:] if c.isascii()) for row in free]
    rows = generate(PROMPTS, **options)
    alone = [generate([p], seeds=[i], **options)[0] for i, p in enumerate(PROMPTS)]
    assert_same(rows, alone)
    assert [row.finish_reason for row in rows] == ["stop_string"] * 4
    for row, other in zip(rows, free, strict=True):
        assert other.text.startswith(row.text + row.stop)
        assert other.ids[: len(row.ids)] == row.ids


def test_a_prompt_that_holds_the_stop_string_goes_on():
    (row,) = generate(["hello "], constant(*b"hello "), stop=["hello "], temperature=0)
    assert row.finish_reason == "stop_string"
    assert len(row.ids) == 6 and row.text == ""


def test_text_of_a_response_keeps_what_decoders_drop_in_front():
    # As sentencepiece does: a word's space is part of it, and the first is dropped.
    decode = lambda ids: "".join([" to", " be", " or"][i] for i in ids).removeprefix(
        " "
    )
    assert text.of_response(decode, [0], [1, 2]) == " be or"
    assert text.of_response(decode, [], [1, 2]) == "be or"
    rocket = list("🚀!".encode())
    assert text.of_response(TOKENIZER.decode, rocket[:2], rocket[2:]) == "🚀!"
    assert text.of_response(TOKENIZER.decode, [97, *rocket[:1]], [98]) == "b"
    assert text.of_response(TOKENIZER.decode, [97], rocket[:3]) == text.UNDECODED


def test_streamed_text_is_never_taken_back():
    assert text.settled("abc<", ["<end>"]) == "abc"
    assert text.settled("abc<e", ["x", "<end>"]) == "abc"
    assert text.settled("abc<f", ["<end>"]) == "abc<f"
    assert text.settled("ab" + text.UNDECODED, []) == "ab"
    for seed in range(3):
        options = dict(max_tokens=25, temperature=0.9)
        (row,) = generate(["ab"], seeds=[seed], stop=["q"], **options)
        stream = sampling.stream(
            *nano(), TOKENIZER, "ab", seed=seed, stop=["q"], **options
        )
        assert "".join(stream) == row.text


@pytest.mark.parametrize("name", FILTERS)
def test_frequencies_are_those_of_the_distribution(name):
    count, V = 20_000, 12
    logits = jax.random.normal(jax.random.key(2), (1, V)) * 1.5
    chosen = sampling.settings(**{"temperature": 0.8, **FILTERS[name]})
    keys = jax.vmap(jax.random.key)(jnp.arange(count, dtype=jnp.uint32))
    drawn, logps = jax.jit(distribution.draw)(
        jnp.broadcast_to(logits, (count, V)), keys, chosen
    )
    logps_BC, ids_BC = distribution.candidates(logits, chosen)
    probs = np.zeros(V)
    probs[ids_BC[0]] = np.exp(logps_BC[0])
    np.testing.assert_allclose(np.exp(logps), probs[drawn], rtol=1e-5)
    seen = np.bincount(drawn, minlength=V)
    assert (seen[probs == 0] == 0).all()
    assert abs(probs.sum() - 1) < 1e-5
    expected = count * probs[probs > 0]
    chi_square = ((seen[probs > 0] - expected) ** 2 / expected).sum()
    freedom = len(expected) - 1
    # 99.9 %: three standard deviations of the cube root, Wilson and Hilferty 1931.
    spread = math.sqrt(2 / (9 * freedom)) if freedom else 0
    assert chi_square <= freedom * (1 - spread**2 + 3.09 * spread) ** 3 + 1e-6


def test_filters_at_their_edges():
    def kept(logits, **filters):
        logits = jnp.array([logits], jnp.float32)
        logps, ids = distribution.candidates(logits, sampling.settings(**filters))
        return dict(zip(ids[0].tolist(), np.exp(logps[0]).tolist(), strict=True))

    def support(*arguments, **filters):
        return {i for i, p in kept(*arguments, **filters).items() if p > 0}

    ties = [1.0, 2.0, 2.0, 2.0, 0.0]
    assert support(ties, top_k=2) == {1, 2}  # exactly k, the smaller ids
    assert support(ties, top_k=99) == {0, 1, 2, 3, 4}
    quarters = np.log([0.5, 0.25, 0.125, 0.125])
    assert support(quarters, top_p=0.49) == {0}
    assert support(quarters, top_p=0.6) == {0, 1}
    assert support(quarters, top_p=1e-9) == {0}
    assert support(quarters, top_p=1) == {0, 1, 2, 3}
    # Of the two that top-k leaves, the first has 2/3 of the mass.
    assert support(quarters, top_k=2, top_p=0.6) == {0}
    assert support(quarters, min_p=0.49) == {0, 1}
    assert support(quarters, min_p=1) == {0}
    assert support([-np.inf, 1.0, -np.inf, 1.0], top_p=0.9) == {1, 3}
    assert support([-np.inf, 1.0, -np.inf], top_k=3) == {1}
    assert kept([1e4, 1e4 - 1, 0.0], temperature=1e-6)[0] == 1.0
    assert np.isfinite(list(kept([1e30, -1e30]).values())).all()


def test_bad_settings_are_refused_together_and_by_name():
    with pytest.raises(config.ConfigError) as caught:
        generate(
            ["a", "b"],
            max_tokens=0,
            temperature=-0.5,
            top_k=0,
            top_p=1.5,
            min_p=-0.1,
            stop=[""],
            stop_ids=[ROLE + 1],
            seeds=[-1],
            batch_size=True,
        )
    named = {problem.partition(":")[0] for problem in caught.value.problems}
    assert named == {
        *("max_tokens", "temperature", "top_k", "top_p", "min_p"),
        *("stop", "stop_ids", "seeds", "batch_size"),
    }
    for bad in (
        *(dict(temperature=x) for x in (math.nan, math.inf, True, "1", 1e-9)),
        *(dict(top_p=x) for x in (0, math.nan)),
        *(dict(top_k=x) for x in (1.5, True)),
        *(dict(stop=x) for x in ("word", [text.UNDECODED], [b"x"])),
        dict(seeds=[2**32]),
        dict(max_tokens=1.5),
    ):
        with pytest.raises(config.ConfigError, match=f"^{next(iter(bad))}: "):
            generate(["a"], **bad)


@pytest.mark.parametrize(
    "prompts, max_tokens, message",
    [
        (
            ["a", "x" * 300],
            12,
            r"prompts\[1\]: 301 tokens .* = 256; shorten .* 46 tokens",
        ),
        (
            ["x" * 100],
            156,
            r"prompts\[0\]: 101 tokens .* set max_tokens to 155 at most",
        ),
        ([[1, 259]], 12, r"prompts\[0\]: 259 is not a token; there are 0 to 258"),
        ([[1.5]], 12, r"prompts\[0\]: 1.5 is not a token"),
        ("abc", 12, r"prompts: 'abc' is one text"),
        (["a", []], 12, r"prompts\[1\]: empty, and the tokenizer has no start"),
        (["a", "\udcff"], 12, r"prompts\[1\]: 'utf-8' codec can't encode"),
    ],
)
def test_bad_prompts_are_refused_by_place(prompts, max_tokens, message):
    with pytest.raises(config.ConfigError, match=message):
        generate(prompts, max_tokens=max_tokens)


def test_what_the_tokenizer_cannot_start_or_spell_is_refused():
    for files, prompt, message in (
        ({"chars.json": b'{"chars": "ab", "control": []}'}, "", "empty, and the tok"),
        ({"chars.json": b'{"chars": "ab", "control": []}'}, "abc", "character 'c'"),
    ):
        chars = tokenizer.from_files("chars", files)
        with pytest.raises(config.ConfigError, match=rf"prompts\[0\]: {message}"):
            sampling.generate(*nano(), chars, [prompt], max_tokens=3)


def test_the_whole_of_max_length_can_be_used():
    (row,) = generate(["x" * 100], max_tokens=155, stop_ids=[])
    assert len(row.prompt_ids + row.ids) == 256
    assert (row.model_logprobs < 0).all()


def test_long_prompts_go_in_slices(monkeypatch):
    model, params = models.build(SHAPE, ROWS), nano()[1]
    assert model != nano()[0]  # so it does not get the programs of that one
    monkeypatch.setattr(loop, "PREFILL", 11)
    assert_same(
        generate(PROMPTS, (model, params), max_tokens=11),
        generate(PROMPTS, max_tokens=11),
    )


def test_a_mesh_changes_nothing():
    model, params = nano(**VARIANTS["gqa, qk_norm, unrolled"])
    expected = generate(PROMPTS, (model, params), temperature=0.8, top_k=50)
    mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
    boxed = jax.eval_shape(model.init, jax.random.key(0))
    where = sharding.shardings(boxed, mesh, sharding.RULES)
    placed = jax.tree.map(jax.device_put, params, where)
    with sharding.use(mesh, sharding.RULES):
        rows = generate(PROMPTS, (model, placed), temperature=0.8, top_k=50)
    assert_same(rows, expected)


def test_few_programs_are_compiled():
    model, params = models.build(SHAPE, ROWS), nano()[1]
    programs = lambda: (
        completions._start._cache_size(),
        completions._advance._cache_size(),
    )
    before = programs()
    for prompt, options in (
        ("abc", dict(temperature=0.5, seeds=[4])),
        ("abcdefgh", dict(temperature=0.9, max_tokens=9)),
        ("abcdef", dict(stop=["x"], stop_ids=[3])),
    ):
        generate([prompt], (model, params), **options)
        list(sampling.stream(model, params, TOKENIZER, prompt, max_tokens=5))
    assert np.subtract(programs(), before).tolist() == [1, 1]
    generate(["abc"], (model, params), top_k=5)  # drawing is no part of the prefill
    assert np.subtract(programs(), before).tolist() == [1, 2]


@pytest.mark.parametrize("prefill", [512, 2])  # in two slices, one of them padded
def test_sample_inside_a_jitted_function(prefill, monkeypatch):
    monkeypatch.setattr(loop, "PREFILL", prefill)
    model, params = nano()
    prompts = np.array([[0, 0, BOS, 97], [BOS, 97, 98, 99], [0, 0, 0, 0]])
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    allowed = np.arange(ROWS) < 256

    @jax.jit
    def rollout(params, key_data):
        draw = sampling.Draw(
            keys_B=jax.vmap(jax.random.key)(key_data),
            allowed_V=jnp.asarray(allowed),
            stops_V=jnp.zeros(ROWS, bool),
            settings=sampling.settings(temperature=0.7),
        )
        return sampling.sample(model, params, prompts, mask, draw, max_tokens=6)

    out = rollout(params, jnp.array([5, 7, 9], jnp.uint32))
    options = dict(temperature=0.7, seeds=[5, 7, 0, 0], stop_ids=[])
    # Two more rows and more tokens, for the shape of other tests.
    rows = generate([[BOS, 97], [BOS, 97, 98, 99], "", "x" * 30], **options)[:2]
    assert out.length_B.tolist() == [6, 6, 0]
    assert out.done_B.tolist() == [False, False, True]
    assert out.tokens_BR[2].tolist() == [0] * 6 and not out.logps_BR[2].any()
    for i, row in enumerate(rows):
        assert out.tokens_BR[i].tolist() == row.ids[:6]
        np.testing.assert_allclose(out.logps_BR[i], row.logprobs[:6], atol=1e-5)
        model_logps = row.model_logprobs[:6]
        np.testing.assert_allclose(out.model_logps_BR[i], model_logps, atol=1e-5)


def test_buckets():
    sizes = collections.Counter(completions.bucket(n) for n in range(1, 1100))
    assert list(sizes) == [16, 32, 64, 128, 256, 512, 1024, 1536]
