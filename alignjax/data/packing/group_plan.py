# SPDX-License-Identifier: Apache-2.0
"""Which groups of responses go into which row of T targets.

A group is a document of `comparisons.tokenize`: p tokens of a prompt, then K responses
of r_k. How many targets it takes is a matter of the layout:

    padded   p - 1 + r_k in a sequence for each response, one group a row
    packed   the sum of these, in one sequence
    shared   p - 1 + sum r_k: the responses are branches of one prompt

Groups are whole: what is too long is refused, left out, or loses the beginning of its
prompt, never any of a response.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignjax.data import records
from alignjax.data.chat import comparisons
from alignjax.data.packing import best_fit
from alignjax.data.tokens import cache
from alignjax.storage import atomic, json_files

FORMAT = 2
BLOCK = 1 << 20  # groups that are packed together, so that memory has a bound
COUNTS = ("documents", "tokens", "long", "long_tokens", "cut", "cut_tokens")


class Layout(NamedTuple):
    """How groups are put into rows, apart from which.

    Attributes:
      name: "padded", "packed" or "shared".
      length: T, the targets of a sequence.
      responses: K, of a group in a row.
      mismatched: whether the last of them is another prompt's, which the document does
        not have; a row keeps room for it.
      most: groups of a row at most, or None.
    """

    name: str
    length: int
    responses: int
    mismatched: bool = False
    most: int | None = None

    @property
    def sequences(self) -> int:
        """R, of a row."""
        return self.responses if self.name == "padded" else 1

    def size(self, prompts: np.ndarray, responses: np.ndarray) -> np.ndarray:
        """Targets that groups take of a sequence: the longest, where it has several.

        Args:
          prompts: ints [D], p. responses: ints [D, K], r_k; 0 where there is none.
        """
        if self.name == "shared":
            return prompts - 1 + responses.sum(1)
        each = np.where(responses > 0, prompts[:, None] - 1 + responses, 0)
        return each.max(1) if self.name == "padded" else each.sum(1)

    def places(self, prompts: np.ndarray, responses: np.ndarray) -> np.ndarray:
        """Targets that groups take of all sequences together; [D]."""
        layout = self._replace(name="packed") if self.name == "padded" else self
        return layout.size(prompts, responses)

    def room(
        self, prompts: np.ndarray, responses: np.ndarray, reserve: int
    ) -> np.ndarray:
        """How long a mismatched response may be for the group to fit; [D].

        That is `reserve`, or what is left where the group is alone in a row.
        """
        used = self.size(prompts, responses)
        if self.name == "padded":
            left = self.length - (prompts - 1)
        else:
            left = self.length - used - (prompts - 1) * (self.name == "packed")
        return np.clip(left, 0, reserve)


class Plan(NamedTuple):
    """Which groups of a token cache make up which row; R rows, G groups.

    Attributes:
      key: a digest of all that it follows from.
      layout: see `Layout`.
      head: tokens of a prompt that stay where its beginning is cut: a start token.
      documents: int64 [G], the document of each group, row by row.
      cuts: int32 [G], how many tokens its prompt has lost.
      rows: int64 [R + 1], the first group of each row, and the end.
      manifest: counts; `groups` is the most of a row, `reserve` the tokens that are
        kept free for a mismatched response, as many as any response has.
    """

    key: str
    layout: Layout
    head: int
    documents: np.ndarray
    cuts: np.ndarray
    rows: np.ndarray
    manifest: dict[str, Any]

    @property
    def num_rows(self) -> int:
        return len(self.rows) - 1

    @property
    def length(self) -> int:
        return self.layout.length


def plan(
    tokens: cache.TokenCache,
    spans: Iterable[tuple[np.ndarray, np.ndarray]],
    directory: Path,
    *,
    layout: Layout,
    pack: str,
    long_documents: str,
    head: int,
    turns: tuple[int, ...],
    token_bytes: np.ndarray,
    identity: dict[str, Any],
) -> Plan:
    """The plan for the documents in `spans`, made once and kept in `directory`.

    Args:
      spans: blocks of `(starts, ends)`, the tokens of each document that takes part.
      pack: "best_fit", or "none" for one group a row.
      long_documents: of groups that do not fit into a row: "error", "skip", or
        "truncate_prompt": whole turns of the beginning of the prompt are left out, or
        if that is not enough tokens; and where the responses alone do not fit, all.
      turns: the tokens that turns begin with.
      token_bytes: of the tokenizer, to count the bytes of text that are targets.
      identity: what `spans` follow from, beyond the cache.

    Raises:
      DataError: groups that are too long, where that is an error.
    """
    settings = {**layout._asdict(), "pack": pack, "long_documents": long_documents}
    settings |= {"groups": FORMAT, "head": head, "turns": list(turns), **identity}
    key = json_files.digest([tokens.key, settings])
    path = Path(directory) / "plans" / key[:32]

    def fill(partial: Path) -> dict[str, Any]:
        documents = _documents(tokens, spans)
        lengths = _lengths(tokens, documents)
        reserve = int(lengths[:, 1:].max(initial=0))
        count = collections.Counter(dict.fromkeys(COUNTS, 0))
        count["documents"], count["tokens"] = len(documents), int(lengths.sum())
        kept, cuts = _cut(tokens, documents, layout, long_documents, head, turns, count)
        documents, lengths, cuts = documents[kept], lengths[kept], cuts[kept]
        prompts, responses = lengths[:, 0] - cuts, lengths[:, 1:]
        sizes = layout.size(prompts, responses)
        if layout.mismatched and layout.name != "padded":
            room = layout.room(prompts, responses, reserve)
            sizes = layout.size(prompts, np.concatenate([responses, room[:, None]], 1))
        order, ends = _rows(sizes, layout, pack)
        documents[order].tofile(partial / "documents.bin")
        cuts[order].astype(np.int32).tofile(partial / "cuts.bin")
        rows = np.concatenate([[0], ends]).astype(np.int64)
        rows.tofile(partial / "rows.bin")
        text = _text_bytes(tokens, documents, lengths, token_bytes)
        return {
            **count,
            "kept": len(documents),
            "rows": len(ends),
            "groups": int(np.diff(rows).max(initial=0)),
            "reserve": reserve,
            "targets": int(layout.places(prompts, responses).sum()),
            "weight": float(responses.sum()),
            "text_bytes": text,
        }

    manifest = atomic.obtain(path, fill)
    kept, rows = manifest["kept"], manifest["rows"]
    return Plan(
        key=key,
        layout=layout,
        head=head,
        documents=cache.open_array(path / "documents.bin", np.int64, (kept,)),
        cuts=cache.open_array(path / "cuts.bin", np.int32, (kept,)),
        rows=cache.open_array(path / "rows.bin", np.int64, (rows + 1,)),
        manifest=manifest,
    )


def _documents(tokens, spans) -> np.ndarray:
    """The numbers of the documents whose tokens are the spans."""
    starts = [np.zeros(0, np.int64), *(np.array(found) for found, _ in spans)]
    return np.searchsorted(tokens.offsets, np.concatenate(starts)).astype(np.int64)


def _lengths(tokens, documents: np.ndarray) -> np.ndarray:
    """int64 [D, 1 + K], of prompts and responses."""
    return tokens.fields[comparisons.LENGTHS][documents].astype(np.int64)


def _cut(tokens, documents, layout, long_documents, head, turns, count):
    """Which groups are kept, and how much of their prompts is cut; tells `count`."""
    faults = records.Faults(
        "error",
        'set data.long_documents = "truncate_prompt" or "skip", or raise length',
    )
    lengths = _lengths(tokens, documents)
    prompts, responses = lengths[:, 0], lengths[:, 1:]
    cuts = np.zeros(len(documents), np.int64)
    kept = np.ones(len(documents), bool)
    for i in np.flatnonzero(_excess(layout, prompts, responses) > 0).tolist():
        size = int(layout.size(prompts[i : i + 1], responses[i : i + 1])[0])
        document = int(documents[i])
        where, _ = tokens.describe(int(tokens.offsets[document]))
        cut = None
        if long_documents == "error":
            faults.add(where, f"{size} targets do not fit into {layout.length}")
        elif long_documents == "truncate_prompt":
            cut = _first_cut(tokens, document, lengths[i], layout, head, turns)
        if cut is None:
            kept[i] = False
            count["long"] += 1
            count["long_tokens"] += int(lengths[i].sum())
        else:
            cuts[i] = cut
            count["cut"] += 1
            count["cut_tokens"] += cut
    faults.check()
    return kept, cuts


def _excess(layout: Layout, prompts: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """How many targets too many groups have; a mismatched response needs none."""
    return layout.size(prompts, responses) - layout.length


def _first_cut(tokens, document, lengths, layout, head, turns) -> int | None:
    """The least cut that helps, of whole turns if there is one; None if none does."""
    start, prompt = int(tokens.offsets[document]), int(lengths[0])
    possible = np.arange(1, prompt - head)  # at least one token stays
    responses = np.broadcast_to(lengths[1:], (len(possible), len(lengths) - 1))
    helps = possible[_excess(layout, prompt - possible, responses) <= 0]
    if not len(helps):
        return None
    ids = np.asarray(tokens.tokens[start + head : start + prompt])
    whole = helps[np.isin(ids[helps], turns)]
    return int(whole[0] if len(whole) else helps[0])


def _rows(sizes: np.ndarray, layout: Layout, pack: str):
    """The order of the groups, row by row, and where each row ends."""
    if pack == "none" or layout.name == "padded":
        return np.arange(len(sizes)), np.arange(1, len(sizes) + 1)
    orders, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for at in range(0, len(sizes), BLOCK):
        row_of = best_fit.rows(sizes[at : at + BLOCK], layout.length, layout.most)
        orders.append(at + np.argsort(row_of, kind="stable"))
        counts.append(np.bincount(row_of))
    return np.concatenate(orders), np.cumsum(np.concatenate(counts))


def _text_bytes(tokens, documents, lengths, token_bytes) -> float:
    """Bytes of text of all responses."""
    total = 0
    ends = np.asarray(tokens.offsets)[documents + 1]
    starts = ends - lengths[:, 1:].sum(1)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        total += int(token_bytes[tokens.tokens[start:end]].sum())
    return float(total)


def report(plan: Plan) -> str:
    """What became of the groups, in a line."""
    m, layout = plan.manifest, plan.layout
    fill = m["targets"] / max(1, m["rows"] * layout.length * layout.sequences)
    dropped, cut = "none", "none"
    if m["long"]:
        dropped = f"{m['long']:,} that do not fit ({m['long_tokens']:,} tokens)"
    if m["cut"]:
        cut = f"{m['cut']:,} prompts at the beginning ({m['cut_tokens']:,} tokens)"
    shape = f"{layout.sequences} x {layout.length:,}"
    return (
        f"kept {m['kept']:,} groups of {m['documents']:,}, {int(m['weight']):,} tokens "
        f"of responses, in {m['rows']:,} rows of {shape}, {layout.name}, up to "
        f"{m['groups']} groups a row, {100 * fill:.1f} % full; cut {cut}; dropped "
        f"{dropped}"
    )
