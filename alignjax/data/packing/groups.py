# SPDX-License-Identifier: Apache-2.0
"""Plans of groups of responses: the groups of each row of T targets.

A group is a document of `comparisons.tokenize`; `rows.Layout` has its size in a row.
Groups are never split: one that is too long is refused, left out, or loses the
beginning of its prompt, never a part of a response.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignjax import errors
from alignjax.data import packing, records, shuffle
from alignjax.data.chat import comparisons
from alignjax.data.chat import format as chat
from alignjax.data.packing import rows
from alignjax.data.packing.rows import Groups, Layout
from alignjax.data.tokenizers import base
from alignjax.data.tokens import cache
from alignjax.storage import atomic, json_files

FORMAT = 2
TRUNCATE = "truncate_prompt"
BLOCK = 1 << 20  # groups that are packed together, so that memory has a bound
MISMATCHED = 3  # the version of `mismatch`, in the keys of plans
TRIES = 64  # responses that are tried for a group
COUNTS = ("documents", "tokens", "long", "long_tokens", "cut", "cut_tokens")


def problems(cfg: Any, data: str) -> list[str]:
    """The fields of a `loader.DataConfig` that do not go with groups."""
    problems = []
    if cfg.chat is None:
        problems.append(f'chat: {data} are dialogues; say chat = "roles"')
    if cfg.train_on != "all":
        problems.append(f"train_on: {data} are of whole responses; leave it out")
    if cfg.long_documents == "split":
        others = '"truncate_prompt", "skip" or "error"'
        problems.append(f'long_documents: "split" tears responses apart; say {others}')
    if cfg.validation_by == "tail":
        problems.append(f'validation_by: {data} are held out by prompt; say "hash"')
    if cfg.pack == "none" and (cfg.groups_per_row or 1) > 1:
        problems.append(f'groups_per_row: {cfg.groups_per_row} with pack = "none"')
    return problems


def layout(
    cfg: Any,
    length: int,
    *,
    tok: base.Tokenizer,
    caches: Mapping[str, cache.TokenCache],
    values: Sequence[str],
    mismatched: bool,
) -> Layout:
    """The layout that a `loader.DataConfig` asks for.

    Args:
      caches: of the sources, by the paths of their sections in the config.
      values: the `comparisons.VALUES` that each source must have.
      mismatched: whether rows have mismatched responses.

    Raises:
      ConfigError: sources that lack a value, or have unequal numbers of responses.
    """
    form = chat.of(tok, cfg.chat)
    head, turns = form.prompt_cuts(cfg.bos)
    truncates = cfg.long_documents == TRUNCATE
    header, tail = form.edges() if truncates else (0, 0)
    own_prompts = "packed" if cfg.pack == "best_fit" else "padded"
    return Layout(
        name="shared" if cfg.share_prompt else own_prompts,
        length=length,
        responses=_responses(caches, values) + mismatched,
        mismatched=mismatched,
        most=cfg.groups_per_row,
        pack=cfg.pack,
        long_documents=cfg.long_documents,
        head=head,
        turns=tuple(turns),
        header=header,
        tail=tail,
    )


def _responses(caches: Mapping[str, cache.TokenCache], values: Sequence[str]) -> int:
    """K; all sources must have one, and `values` with one shape."""
    problems = []
    shapes = {name: tokens.manifest["fields"] for name, tokens in caches.items()}
    first, expected = next(iter(shapes.items()))
    k = expected[comparisons.LENGTHS][0] - 1
    for name, shape in shapes.items():
        own = [value for value in shape if value in comparisons.VALUES]
        for value in values:
            if value not in own:
                has = ", ".join(own) or "nothing else"
                problems.append(
                    f"{name}: has no {value!r}, which the loss needs; it has {has}"
                )
            elif shape[value] != (other := expected.get(value, shape[value])):
                problems.append(
                    f"{name}: has {shape[value][0]} numbers of {value!r}, where "
                    f"{first} has {other[0]}"
                )
        if (count := shape[comparisons.LENGTHS][0] - 1) != k:
            problems.append(
                f"{name}: {count} responses a prompt, where {first} has {k}; mix "
                "sources of one number"
            )
    if problems:
        raise errors.ConfigError(problems)
    return k


class Plan(NamedTuple):
    """The groups of a token cache that each row has; R rows, G groups.

    Attributes:
      key: a digest of everything it depends on.
      layout: its settings.
      tokens: the cache.
      documents: int64 [G], the document of each group, row by row.
      cuts: int32 [G], how many tokens its prompt has lost.
      headers: int32 [G], where in its prompt a turn begins of which the header stays
        and the beginning of the text is lost; -1 where none does.
      partners: int64 [G], the document whose response is its mismatched one, or -1.
      offsets: int64 [R + 1], the first group of each row, and the end.
      manifest: counts; `groups` is the most of a row.
    """

    key: str
    layout: Layout
    tokens: cache.TokenCache
    documents: np.ndarray
    cuts: np.ndarray
    headers: np.ndarray
    partners: np.ndarray
    offsets: np.ndarray
    manifest: dict[str, Any]

    @property
    def num_rows(self) -> int:
        return len(self.offsets) - 1

    def targets(self) -> tuple[np.ndarray, np.ndarray]:
        """Stretches of tokens that are learned: their starts and lengths, int64."""
        lengths = _lengths(self.tokens, self.documents)[:, 1:].sum(1)
        return self.tokens.offsets[self.documents + 1] - lengths, lengths

    def describe(self, row: int) -> list[str]:
        """The file and line of each group of a row."""
        documents = self.documents[slice(*self.offsets[row : row + 2].tolist())]
        starts = self.tokens.offsets[documents].tolist()
        return [self.tokens.describe(start)[0] for start in starts]

    def rows(self, indices: np.ndarray) -> dict[str, Any]:
        """Some rows of this plan alone, -1 for one of padding; see `Layout.rows`."""
        return self.layout.rows([self], np.asarray(indices, np.int64), _alone)

    def target_index(self, indices: np.ndarray) -> np.ndarray:
        """The index in the cache of each target of a response; int64 [n, R, T], or -1.

        Of rows `indices`, ints [n], -1 for one of padding.
        """
        indices = np.asarray(indices, np.int64)
        groups = self.layout.read([self], indices, _alone)
        targets = rows.targets_of(groups, self.layout)
        index = np.where(targets.response > 0, groups.index[targets.target], -1)
        shape = (len(indices), self.layout.sequences, self.layout.length)
        return rows.spread(targets.at, index, shape, np.int64, fill=-1)

    def groups(self, row: np.ndarray, which: np.ndarray) -> Groups:
        """The groups of some rows.

        Args:
          row: int64 [n], -1 for a row without groups.
          which: bool [n], the rows that are of this plan; of the others there is none.
        """
        tokens, layout = self.tokens, self.layout
        real = np.flatnonzero(which & (row >= 0))
        first, last = self.offsets[row[real]], self.offsets[row[real] + 1]
        number, place = cache.ranges(first, last - first)
        documents = np.asarray(self.documents[number])
        cuts = self.cuts[number].astype(np.int64)
        lengths = _lengths(tokens, documents)
        starts = tokens.offsets[documents]
        lengths[:, 0] -= cuts
        sizes = lengths.sum(1)
        index, inside = cache.ranges(starts, sizes)
        shift = np.where(inside >= layout.head, np.repeat(cuts, sizes), 0)
        header = np.repeat(self.headers[number].astype(np.int64), sizes)
        of_header = (header >= 0) & (inside >= layout.head)
        of_header &= inside < layout.head + layout.header
        index += np.where(of_header, header - layout.head, shift)
        own = np.cumsum(sizes) - sizes
        part_starts = own[:, None] + np.cumsum(lengths, 1) - lengths
        if layout.mismatched:  # their tokens follow those of all groups
            partners = np.asarray(self.partners[number])
            more = _mismatched_lengths(tokens, partners)
            start = len(index) + np.cumsum(more) - more
            further, _ = cache.ranges(tokens.offsets[partners + 1] - more, more)
            index = np.concatenate([index, further])
            part_starts = np.concatenate([part_starts, start[:, None]], 1)
            lengths = np.concatenate([lengths, more[:, None]], 1)
        return Groups(
            row=np.repeat(real, last - first),
            place=place,
            starts=part_starts,
            lengths=lengths,
            weight=tokens.fields[comparisons.WEIGHT][documents],
            values={
                name: tokens.fields[name][documents]
                for name in comparisons.VALUES
                if name in tokens.fields
            },
            tokens=tokens.tokens[index],
            index=index,
            reference=None if tokens.reference is None else tokens.reference[index],
        )

    def report(self) -> str:
        """The numbers of groups that are packed, cut and dropped, in a line."""
        m, layout = self.manifest, self.layout
        fill = m["targets"] / max(1, m["rows"] * layout.length * layout.sequences)
        dropped = f"{m['long']:,} that do not fit ({m['long_tokens']:,} tokens)"
        cut = f"{m['cut']:,} prompts at the beginning ({m['cut_tokens']:,} tokens)"
        dropped, cut = dropped if m["long"] else "none", cut if m["cut"] else "none"
        alone = ""
        if m.get("alone"):
            alone = (
                f"; {m['alone']:,} have no response to another prompt that fits beside "
                "them, so the baseline is measured without them; raise length, or set "
                "data.share_prompt, or give more prompts"
            )
        shape = f"{layout.sequences} x {layout.length:,}"
        return (
            f"kept {m['kept']:,} groups of {m['documents']:,}, {int(m['weight']):,} "
            f"tokens of responses, in {m['rows']:,} rows of {shape}, {layout.name}, up "
            f"to {m['groups']} groups a row, {100 * fill:.1f} % full; cut {cut}; "
            f"dropped {dropped}{alone}"
        )


def _alone(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The source and the row of each number, where there is one plan."""
    return np.zeros_like(numbers), numbers


def _lengths(tokens: cache.TokenCache, documents: np.ndarray) -> np.ndarray:
    """int64 [D, 1 + K], of prompts and responses."""
    return tokens.fields[comparisons.LENGTHS][documents].astype(np.int64)


def _mismatched_lengths(tokens: cache.TokenCache, partners: np.ndarray) -> np.ndarray:
    """int64 [D], the tokens of the partners' responses; 0 where there is none, -1."""
    return np.where(partners >= 0, _lengths(tokens, partners)[:, 1], 0)


def mismatch(
    prompts: np.ndarray, responses: np.ndarray, room: np.ndarray
) -> np.ndarray:
    """The group whose response each group has as its mismatched one.

    KTO measures its baseline by these (arXiv:2402.01306). They follow from the data
    alone, not from batches or rows, so that packing changes no loss. Groups stand in a
    circle in the order of their prompts' digests, which is random but has equal prompts
    side by side; a partner is as far on as the commonest prompt is common, or the next
    tried from there, all around the circle, whose prompt is another and that fits.

    Args:
      prompts: uint64 [D], digests, equal for equal prompts.
      responses: ints [D], their tokens. room: ints [D], the most that each can take.

    Returns:
      int64 [D], -1 where none of those tried will do.
    """
    count = len(prompts)
    partners = np.full(count, -1)
    order = np.argsort(prompts, kind="stable")
    _, alike = np.unique(prompts, return_counts=True)
    left = np.arange(count)  # places in the circle without a partner yet
    steps = np.arange(min(TRIES, count)) * max(1, count // TRIES)
    for step in alike.max(initial=0) + steps:
        group, other = order[left], order[(left + step) % count]
        able = (responses[other] <= room[group]) & (prompts[other] != prompts[group])
        partners[group[able]] = other[able]
        left = left[~able]
    return partners


def _partners(tokens, documents, cuts, layout: Layout) -> np.ndarray:
    """The document of each one's mismatched response, or -1; [D]."""
    lengths, starts = _lengths(tokens, documents), tokens.offsets[documents]
    # Digests of whole prompts, before any cut: the hashes of a cache are of how
    # dialogues open, which other prompts may share.
    spans = zip(starts.tolist(), lengths[:, 0].tolist(), strict=True)
    prompts = (tokens.tokens[a : a + n].tobytes() for a, n in spans)
    digests = np.fromiter(map(shuffle.hashed, prompts), np.uint64, len(documents))
    room = layout.room(lengths[:, 0] - cuts, lengths[:, 1:])
    partners = mismatch(digests, lengths[:, 1], room)
    return np.where(partners >= 0, documents[partners], -1)


def plan(
    layout: Layout,
    tokens: cache.TokenCache,
    spans: Iterable[tuple[np.ndarray, np.ndarray]],
    directory: Path,
    *,
    token_bytes: np.ndarray,
    identity: Mapping[str, Any],
) -> Plan:
    """The plan for the groups in `spans`, made once; as `text.plan`."""
    truncates = layout.long_documents == TRUNCATE
    settings = layout._asdict()
    settings["mismatched"] = layout.mismatched and MISMATCHED
    if not truncates:  # what does not matter is not in the keys of plans
        del settings["header"], settings["tail"]
    key = json_files.digest([tokens.key, {**settings, "groups": FORMAT, **identity}])
    path = Path(directory) / "plans" / key[:32]

    def fill(partial: Path) -> dict[str, Any]:
        starts = [np.zeros(0, np.int64), *(np.array(starts) for starts, _ in spans)]
        documents = np.searchsorted(tokens.offsets, np.concatenate(starts))
        documents = documents.astype(np.int64)
        lengths = _lengths(tokens, documents)
        counts = collections.Counter(dict.fromkeys(COUNTS, 0))
        counts["documents"], counts["tokens"] = len(documents), int(lengths.sum())
        fits, cuts, headers = _cut(tokens, documents, lengths, layout, counts)
        documents, lengths, cuts = documents[fits], lengths[fits], cuts[fits]
        prompts, responses = lengths[:, 0] - cuts, lengths[:, 1:]
        every, alone = responses, {}
        partners = np.full(len(documents), -1)
        if layout.mismatched and len(documents):
            partners = _partners(tokens, documents, cuts, layout)
            more = _mismatched_lengths(tokens, partners)
            every = np.concatenate([responses, more[:, None]], 1)
            alone = {"alone": int((partners < 0).sum())}
        order, ends = _rows(layout.size(prompts, every), layout)
        documents[order].tofile(partial / "documents.bin")
        cuts[order].astype(np.int32).tofile(partial / "cuts.bin")
        if truncates:
            headers[fits][order].astype(np.int32).tofile(partial / "headers.bin")
        if layout.mismatched:
            partners[order].tofile(partial / "partners.bin")
        offsets = np.concatenate([[0], ends]).astype(np.int64)
        offsets.tofile(partial / "rows.bin")
        learned = responses.sum(1)
        starts = tokens.offsets[documents + 1] - learned
        weight, text_bytes = tokens.weigh(starts, learned, token_bytes)
        # Padded groups take as many targets of all sequences as packed ones of one.
        whole = layout._replace(name=layout.name.replace("padded", "packed"))
        return {
            **counts,
            "kept": len(documents),
            "rows": len(ends),
            "groups": int(np.diff(offsets).max(initial=0)),
            "targets": int(whole.size(prompts, every).sum()),
            **alone,
            "weight": weight,
            "text_bytes": text_bytes,
        }

    manifest = atomic.obtain(path, fill)
    array = lambda n, dtype, size: cache.open_array(path / f"{n}.bin", dtype, (size,))
    count = manifest["kept"]
    documents = array("documents", np.int64, count)
    cuts = array("cuts", np.int32, count)
    headers = np.full(count, -1, np.int32)
    if truncates:
        headers = array("headers", np.int32, count)
    partners = np.full(count, -1)
    if layout.mismatched:
        partners = array("partners", np.int64, count)
    offsets = array("rows", np.int64, manifest["rows"] + 1)
    arrays = documents, cuts, headers, partners, offsets
    return Plan(key, layout, tokens, *arrays, manifest)


def _cut(tokens, documents, lengths, layout: Layout, counts: collections.Counter):
    """Whether each group fits, and the cut and the header of its prompt; [D]."""
    remedy = 'set data.long_documents = "truncate_prompt" or "skip", or raise length'
    faults = records.Faults("error", remedy)
    cuts = np.zeros(len(documents), np.int64)
    headers = np.full(len(documents), -1)
    fits = np.ones(len(documents), bool)
    # A mismatched response needs no room.
    sizes = layout.size(lengths[:, 0], lengths[:, 1:])
    for i in np.flatnonzero(sizes > layout.length).tolist():
        document, cut = int(documents[i]), None
        if layout.long_documents == "error":
            where, _ = tokens.describe(int(tokens.offsets[document]))
            faults.add(where, f"{sizes[i]} targets do not fit into {layout.length}")
        elif layout.long_documents == TRUNCATE:
            cut = _least_cut(tokens, document, lengths[i], layout)
        if cut is None:
            fits[i] = False
            counts["long"] += 1
            counts["long_tokens"] += int(lengths[i].sum())
        else:
            cuts[i], headers[i] = cut
            counts["cut"] += 1
            counts["cut_tokens"] += int(cuts[i])
    faults.check()
    return fits, cuts, headers


def _least_cut(tokens, document: int, lengths, layout: Layout):
    """The least cut that helps, of whole turns if there is one, and its header.

    Of what the last turn says at least one token stays; None if no such cut helps.
    """
    start, prompt = int(tokens.offsets[document]), int(lengths[0])
    head, end = layout.head, prompt - layout.tail
    possible = np.arange(1, end - head)
    responses = np.broadcast_to(lengths[1:], (len(possible), len(lengths) - 1))
    helps = possible[layout.size(prompt - possible, responses) <= layout.length]
    if not len(helps):
        return None
    begins = np.isin(tokens.tokens[start + head : start + end], layout.turns)
    whole = helps[begins[helps]]
    if len(whole):
        return int(whole[0]), -1
    cut, turns = int(helps[0]), np.flatnonzero(begins)
    if len(turns) and head + cut + layout.header < end:
        return cut, head + int(turns[-1])
    return cut, -1


def _rows(sizes: np.ndarray, layout: Layout) -> tuple[np.ndarray, np.ndarray]:
    """The order of the groups, row by row, and where each row ends."""
    if layout.pack == "none" or layout.name == "padded":
        return np.arange(len(sizes)), np.arange(1, len(sizes) + 1)
    orders, counts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for at in range(0, len(sizes), BLOCK):
        row_of = packing.best_fit(sizes[at : at + BLOCK], layout.length, layout.most)
        orders.append(at + np.argsort(row_of, kind="stable"))
        counts.append(np.bincount(row_of))
    return np.concatenate(orders), np.cumsum(np.concatenate(counts))
