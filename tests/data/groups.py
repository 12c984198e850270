# SPDX-License-Identifier: Apache-2.0
"""Comparisons for tests, and what a model sees of them, read off their rows."""

import random

import numpy as np

from alignjax.data import loader, records
from alignjax.data.chat import format, templates
from alignjax.data.tokenizers import base

TOK = base.build(
    base.TokenizerConfig(kind="bytes", control_tokens=templates.CONTROL), [], "unused"
)


def comparisons(
    count=20, seed=0, responses=2, turns=1, attributes=0
) -> list[records.Comparison]:
    """Random ones that say where they are from, each with a prompt of its own."""
    rng = random.Random(seed)
    found = []
    for i in range(count):
        prompt = []
        for turn in range(rng.randint(1, turns)):
            prompt.append(("user", f"{seed}.{i}.{turn}" + "?" * rng.randint(0, 8)))
            prompt.append(("assistant", "!" * rng.randint(1, 5)))
        said = tuple("abcdef"[k] * rng.randint(1, 9) for k in range(responses))
        values = {"gap": i + 0.5, "reward": tuple(float(k) for k in range(responses))}
        if responses == 1:
            values = {"desirable": float(i % 2)}
        if attributes:
            values["target"] = (i / 2,) * attributes
        prompt = tuple(prompt[:-1])
        found.append(records.Comparison(prompt, said, values, weight=1 + i % 3))
    return found


def load(**options) -> records.Source:
    """They are a source, for configs: `kind = "groups:load"`."""
    rows = comparisons(**options)

    def documents():
        for i, row in enumerate(rows):
            yield f"groups:{i}", row

    return records.Source("groups", options, None, documents)


def build(place, sources=None, *, data="pairs", length=96, seed=0, split="train", **o):
    """A dataset of `comparisons` in a layout; `sources` has their options."""
    own = {k: o.pop(k) for k in ("mismatched", "values") if k in o}
    tok = o.pop("tok", TOK)
    sources = sources or {"a": {}}
    o = dict(chat="roles", validation_fraction=0.0, workers=1) | o
    o = dict(long_documents="error") | o
    cfg = loader.DataConfig(
        sources={name: {"kind": "groups:load"} | s for name, s in sources.items()}, **o
    )
    own |= dict(length=length, seed=seed, cache_dir=place, split=split, data=data)
    return loader.build(cfg, tok, **own)


LAYOUTS = {
    "padded": dict(pack="none"),
    "packed": dict(pack="best_fit"),
    "shared": dict(pack="best_fit", share_prompt=True),
}


def seen(rows) -> dict[tuple[int, int, int], tuple]:
    """What the rows say of each response: `{(row, group, k): (context, response)}`.

    The context is what the first target is predicted from, as attention sees it: what
    is at or before it, of its segment, of no branch or its own. It is checked that
    every further target sees the same and all targets before it, at the next position.
    """
    k = rows["lengths"].shape[2]
    branches = rows.get("branches", np.zeros_like(rows["inputs"]))
    found = {}
    for i, r in np.ndindex(rows["inputs"].shape[:2]):
        one = {
            name: rows[name][i, r]
            for name in ("inputs", "targets", "segment_ids", "positions", "responses")
        }
        for number in np.unique(one["responses"][one["responses"] > 0]).tolist():
            at = np.flatnonzero(one["responses"] == number)
            said = one["targets"][at].tolist()
            assert (rows["weights"][i, r, at] == 1).all()
            contexts = []
            for j, t in enumerate(at):
                visible = one["segment_ids"] == one["segment_ids"][t]
                visible &= np.isin(branches[i, r], [0, branches[i, r, t]])
                visible &= np.arange(len(visible)) <= t
                positions = one["positions"][visible]
                assert positions.tolist() == list(range(len(positions)))
                tokens = one["inputs"][visible].tolist()
                assert j == 0 or tokens[-j:] == said[:j]
                contexts.append(tokens[: len(tokens) - j])
            assert all(context == contexts[0] for context in contexts)
            group, which = divmod(number - 1, k)
            assert rows["lengths"][i, group, which] == len(said)
            assert (i, group, which) not in found
            found[i, group, which] = (tuple(contexts[0]), tuple(said))
    assert len(found) == (rows["lengths"] > 0).sum()
    counted = rows["responses"] > 0
    assert (rows["weights"] == counted).all()
    empty = rows["segment_ids"] == 0
    assert not any(rows[n][empty].any() for n in ("inputs", "targets", "responses"))
    return found


def expected(group: records.Comparison, k: int, bos=False) -> tuple:
    """The same of a comparison, from the tokens of its texts."""
    context = format.of(TOK, "roles").prompt_ids(group.prompt, bos)
    return tuple(context), tuple(
        format.of(TOK, "roles").response_ids(group.responses[k])
    )
