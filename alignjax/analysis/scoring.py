# SPDX-License-Identifier: Apache-2.0
"""Log-probabilities and rewards of given responses, as training computes them.

Responses are tokenised as training tokenises them: the reply to a dialogue with what
the template writes around it and the token that ends the turn, a document with its
start and end. Rows of about one length are batched, padded to 16, 32, 64, ... 512
tokens and then to multiples of 512, so that few programs are compiled.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax import errors, types
from alignjax.analysis import placement
from alignjax.data import formats, messages, records, sources
from alignjax.data.chat import dialogues, templates
from alignjax.data.chat import format as chats
from alignjax.data.tokenizers import base
from alignjax.data.tokens import tokenizing
from alignjax.objectives import logprobs, reward_model
from alignjax.sampling import completions, request

ROWS = 32  # of a batch, where they are short
PLACES = 1 << 14  # of a batch at most, but for the batch size that is asked for


class Row(NamedTuple):
    """Tokens to be scored, `ids`, and those before them; neither is empty."""

    prompt_ids: list[int]
    ids: list[int]


class Reward(NamedTuple):
    """How a reward model's score follows from its heads; see `reward_model.make`."""

    pooling: str = "last"
    members: int = 1
    reduce: str = "mean"
    penalty: float | None = None


class Reference(NamedTuple):
    """A model with the same vocabulary, with which the scored one is compared."""

    model: types.Model
    params: types.Params


class Score(NamedTuple):
    """A response under a model; log-probabilities in nats.

    Attributes:
      prompt_ids: the tokens before it.
      ids: its tokens, with the one that ends it.
      logprobs: float32, of each of `ids`.
      logp: their sum, as `LogProbs.total` of training.
      entropy: of the distributions that `ids` are drawn from, summed.
      reward: the score of a reward model, the mean where it has several attributes;
        None of other models.
      rewards: float32 [A], of each attribute, or None.
      ref_logp: `logp` under a reference, or None without one.
      kl: KL(model || reference) at each of `ids`, over the whole vocabulary, summed.
    """

    prompt_ids: list[int]
    ids: list[int]
    logprobs: np.ndarray
    logp: float
    entropy: float
    reward: float | None = None
    rewards: np.ndarray | None = None
    ref_logp: float | None = None
    kl: float | None = None


def reward_of(config: Mapping[str, Any]) -> Reward | None:
    """How the model of a run's config scores responses; None if it does not."""
    objective = config.get("objective") or {}
    if not config["model"].get("score_heads"):
        return None
    options = {name: objective.get(name) for name in Reward._fields}
    return Reward(**{k: v for k, v in options.items() if v is not None})


def tokenize(
    tok: base.Tokenizer, documents: Sequence[Any], *, format: str | None, bos: bool
) -> list[tokenizing.Tokens]:
    """The tokens of responses and what is before them, which has weights of 0.

    Args:
      documents: dialogues, whose last turn of the assistant is the response;
        comparisons with one; or texts, where it is all after the first token.
      format: of dialogues, see `data.chat`. None takes prompts and responses as text
        that goes on, without an end.

    Raises:
      DataError: a document without a response, or that the template refuses.
    """
    rows: dict[int, tokenizing.Tokens] = {}
    for kind, function in _TOKENIZE.items():
        places = [i for i, document in enumerate(documents) if type(document) is kind]
        own = [documents[i] for i in places]
        rows |= zip(places, function(tok, own, format, bos), strict=True)
    return [rows[i] for i in range(len(documents))]


def _texts(tok, texts, format, bos) -> list[tokenizing.Tokens]:
    rows = tokenizing.tokenize_text(tok, texts, bos=bos)
    return [row._replace(weights=np.arange(len(row.ids)) > 0) for row in rows]


def _dialogues(tok, chats, format, bos) -> list[tokenizing.Tokens]:
    if format is None:
        return [_continued(tok, chat.turns, bos) for chat in chats]
    rows = dialogues.tokenize(tok, chats, format=format, train_on="last", bos=bos)
    ends = [int(np.flatnonzero(row.weights)[-1]) + 1 for row in rows]
    return [
        tokenizing.Tokens(row.ids[:end], row.weights[:end])
        for row, end in zip(rows, ends, strict=True)
    ]


def _replies(tok, groups, format, bos) -> list[tokenizing.Tokens]:
    if format is None:
        turns = [(*g.prompt, (records.ASSISTANT, *g.responses)) for g in groups]
        return [_continued(tok, dialogue, bos) for dialogue in turns]
    form = chats.of(tok, format)
    for group in groups:
        reason = chats.fault(group.chat(), form.literal, prompt=True)
        if reason := reason or records.fault_of_text(group.responses[0]):
            raise errors.DataError(reason)
    replies = form.replies(groups, bos)
    return [_joined(prompt, response) for prompt, (response,) in replies]


def _continued(tok, turns: Sequence[records.Turn], bos: bool) -> tokenizing.Tokens:
    """The tokens of a text and of what follows it, each on its own."""
    if [role for role, _ in turns] != [records.USER, records.ASSISTANT]:
        raise errors.DataError(
            "turns of a dialogue, which the run did not learn (data.chat); give a text "
            "as the prompt and one response"
        )
    (_, prompt), (_, response) = turns
    start = [tok.bos_id] if bos else []
    return _joined([*start, *tok.encode(prompt)], tok.encode(response))


def _joined(prompt: Sequence[int], response: Sequence[int]) -> tokenizing.Tokens:
    weights = np.repeat([0.0, 1.0], [len(prompt), len(response)])
    return tokenizing.Tokens([*prompt, *response], weights)


_TOKENIZE = {
    records.Text: _texts,
    records.Chat: _dialogues,
    records.Comparison: _replies,
}


def read(
    path: str,
    faults: records.Faults,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> tuple[str | None, Iterator[tuple[str, Any]]]:
    """The format of a file's rows, and `(where, record)` of each good one.

    Args:
      path: of JSON lines or Parquet.
      faults: is given the bad rows.
      format: guessed from the first row where it is None.
      columns: names that differ from those of the format.

    Raises:
      ConfigError: columns that the format does not have.
      DataError: no such file, or rows of no format.
    """
    rows = sources.good_rows(sources.rows(path), faults)
    first = list(itertools.islice(rows, 1))
    if format is None and first:
        ((_, row),) = first
        format = formats.guess({**row, **dict.fromkeys(columns or ())})
    reader = formats.reader(format or "text", columns=columns)
    rows = ((where, reader.read(row)) for where, row in itertools.chain(first, rows))
    return format, sources.good_rows(rows, faults)


def single(document: Any) -> Iterator[Any]:
    """A record as records of one response each, whatever it counts in training."""
    if isinstance(document, records.Comparison):
        for response in document.responses:
            yield document._replace(responses=(response,), values={})
    elif isinstance(document, records.Chat):
        yield document._replace(weight=1.0, skipped=())
    else:
        yield document


def rows_of(
    documents: Iterable[tuple[str, Any]],
    tok: base.Tokenizer,
    *,
    format: str | None,
    configs: Sequence[Any],
    faults: records.Faults,
) -> Iterator[tuple[int, Row]]:
    """The index and the tokens of every document, in order; see `tokenize`.

    Args:
      documents: `(where, record)`, of one response each.
      configs: of the models that score them; see `fault`.
      faults: is given those that have no tokens to score.
    """
    settings = {"format": format, "bos": tok.bos_id is not None}
    index = 0
    for batch in tokenizing.tokenized(documents, tok, tokenize, settings, workers=1):
        ends = np.cumsum(batch.lengths)[:-1]
        weights = np.zeros(0) if batch.weights is None else batch.weights
        parts = (np.split(array, ends) for array in (batch.ids, weights))
        for i, (ids, weights) in enumerate(zip(*parts, strict=True)):
            row = split(ids, weights)
            if reason := batch.bad.get(i) or fault(row, *configs):
                faults.add(batch.where[i], reason)
            else:
                yield index, row
            index += 1
    faults.check()


def row_of_record(tok: base.Tokenizer, format: str | None, record: Any) -> Row:
    """The tokens of a record of one response; see `tokenize`."""
    bos = tok.bos_id is not None
    ((ids, weights, _),) = tokenize(tok, [record], format=format, bos=bos)
    return split(ids, weights)


def row_of_pair(
    tok: base.Tokenizer,
    format: str | None,
    prompt: str | Sequence,
    response: str | Sequence[int],
) -> Row:
    """The tokens of a prompt and a response in any form that `Run.score` takes.

    Raises:
      ConfigError: turns where there is no format, or a response that is no text and
        no tokens.
      DataError: turns or a text that the template cannot write.
    """
    if format is None and isinstance(prompt, str):
        prompt = request.encode(tok, prompt)
    if not _is_ids(prompt):
        if format is None:
            raise errors.ConfigError(
                "prompts: turns, where texts go on: of a run that did not learn "
                "dialogues (data.chat), or plain; give texts"
            )
        turns, fields = (chat := messages.chat(prompt, "prompt")).turns, chat.fields
        if not isinstance(response, str):
            prompt = chats.of(tok, format).prompt_ids(chat, tok.bos_id is not None)
        elif fields is None:
            record = records.Comparison(turns, (response,), {})
            return row_of_record(tok, format, record)
        else:
            last = (records.ASSISTANT, response)
            record = records.Chat((*turns, last), fields=(*fields, None))
            return row_of_record(tok, format, record)
    if isinstance(response, str):
        form = None if format is None else chats.of(tok, format)
        turn = form is not None and form.awaits_reply(prompt)
        response = (form.response_ids if turn else tok.encode)(response)
    elif not _is_ids(response):
        raise errors.ConfigError(
            f"response: {response!r:.60} is no text and no list of token ids; give one"
        )
    return Row(*([int(i) for i in ids] for ids in (prompt, response)))


def _is_ids(value: Any) -> bool:
    """Whether it is a list of tokens, rather than a text or turns."""
    listed = hasattr(value, "__iter__") and not isinstance(value, str)
    return listed and all(
        isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in value
    )


def split(ids, weights) -> Row:
    """The row of a document's tokens, of which the response is the end."""
    prompt = len(ids) - int(np.count_nonzero(weights))
    ids = [int(i) for i in ids]
    return Row(ids[:prompt], ids[prompt:])


def fault(row: Row, *configs: Any) -> str | None:
    """Why the models of these configs cannot score a row, or None if they can."""
    ids = [*row.prompt_ids, *row.ids]
    if not row.prompt_ids or not row.ids:
        return "a score needs a token before the response, and one in it"
    size = min(c.vocab_size for c in configs)
    longest = min(c.max_length for c in configs)
    if min(ids) < 0 or max(ids) >= size:
        return f"ids from {min(ids)} to {max(ids)} in a vocabulary of {size}"
    if len(ids) - 1 > longest:
        return f"{len(ids) - 1} inputs, where the model takes 1 to {longest}"
    return None


def check_rewards(run: Any, field: str, path: str) -> None:
    """Raises ConfigError where the run of `field` gives dialogues no reward."""
    if not run.config["model"].get("score_heads"):
        raise errors.ConfigError(f"{field}: {path} is no reward model; name one's run")
    if run.chats is None:  # every prompt has turns
        raise errors.ConfigError(
            f"{field}: {path} did not learn dialogues (data.chat), and prompts are; "
            "name a reward model's run that did"
        )


def score_or_fault(
    run: Any, prompts: Sequence, responses: Sequence[str]
) -> list[Score | str]:
    """`Run.score` of responses that a model drew: a text for one that has no score.

    Such are a response with a control token of the opened run's template, or with more
    tokens than it takes. It says why; the others are scored in one batch.

    Raises:
      ConfigError: turns, and a run that did not learn dialogues.
      DataError: a run without a tokenizer.
    """
    tok, config = run.tokenizer, run.model.config
    results: list[Score | str | Row] = []
    for prompt, response in zip(prompts, responses, strict=True):
        try:
            row = row_of_pair(tok, run.chats, prompt, response)
            results.append(fault(row, config) or row)
        except errors.DataError as error:
            results.append(str(error))
    places = [i for i, row in enumerate(results) if isinstance(row, Row)]
    if places:
        rows = [results[i] for i in places]
        scores = run.score([x.prompt_ids for x in rows], [x.ids for x in rows])
        for i, score in zip(places, scores, strict=True):
            results[i] = score
    return results


def check_reference(run: Any, reference: Any) -> None:
    """Raises ConfigError where the opened run `reference` reads other tokens."""
    own, other = (templates.encoding(x.tokenizer) for x in (run, reference))
    if own != other:
        raise errors.ConfigError(
            f"reference: {reference.path} has another tokenizer ({other[:12]}, the "
            f"scored run's is {own[:12]}), so its log-probs are of other tokens; "
            "name a run of the same tokenizer"
        )
    own, other = (x.model.config.vocab_size for x in (run, reference))
    if own != other:
        raise errors.ConfigError(
            f"reference: {reference.path} has a vocabulary of {other:,}, and the "
            f"scored run one of {own:,}; name a run with the same"
        )


def measure(
    model: types.Model,
    params: types.Params,
    rows: Sequence[Row],
    reward: Reward | None = None,
    *,
    reference: Reference | None = None,
    batch_size: int | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Score]:
    """The score of every row, in their order.

    Args:
      rows: ids in the vocabulary; see `fault`.
      reward: of a model with heads.
      reference: for `ref_logp` and `kl`.
      batch_size: rows at one time; the default is 32, and fewer of long ones.
      progress: called with the number of rows that are done.
    """
    scores: dict[int, Score] = {}
    models = [model] if reference is None else [model, reference.model]
    longest = min(one.config.max_length for one in models)
    other, weights = reference or (None, None)
    for places, batch in batches(rows, longest, batch_size):
        figures = _figures(model, params, batch, reward, other, weights)
        logps_BT, logp_B, sums, rewards_BA = jax.device_get(figures)
        for n, i in enumerate(places):
            row = rows[i]
            start = len(row.prompt_ids) - 1
            logps = logps_BT[n, start : start + len(row.ids)].copy()
            own = {name: float(sum_B[n]) for name, sum_B in sums.items()}
            score = Score(*row, logps, float(logp_B[n]), **own)
            if reward is not None:
                mean = float(rewards_BA[n].mean())
                score = score._replace(reward=mean, rewards=rewards_BA[n].copy())
            scores[i] = score
        progress(len(scores))
    return [scores[i] for i in range(len(rows))]


def batches(
    rows: Sequence[Row], max_length: int, batch_size: int | None = None
) -> Iterator[tuple[list[int], types.Sequences]]:
    """Indices of rows of about one length, and those rows, `weights` 1 at their `ids`.

    A batch has rows of padding behind them, so that few programs are compiled.
    """
    size_of = lambda i: len(rows[i].prompt_ids) + len(rows[i].ids) - 1
    bucket = lambda i: min(completions.bucket(size_of(i)), max_length)
    order = sorted(range(len(rows)), key=lambda i: (size_of(i), i))
    start = 0
    while start < len(order):
        length = bucket(order[start])
        size = batch_size or min(ROWS, max(1, PLACES // length))
        size = placement.rows(min(size, 1 << (len(rows) - 1).bit_length()))
        places = [i for i in order[start : start + size] if bucket(i) == length]
        own, padding = [rows[i] for i in places], size - len(places)
        yield (
            places,
            types.Sequences.of(
                [[*row.prompt_ids, *row.ids] for row in own] + [[]] * padding,
                prompts=[len(row.prompt_ids) for row in own] + [0] * padding,
                length=length,
            ),
        )
        start += len(places)


@functools.partial(jax.jit, static_argnums=(0, 3, 4))
def _figures(
    model: types.Model,
    params,
    rows: types.Sequences,
    reward: Reward | None,
    other: types.Model | None,
    reference,
):
    """Log-probs [B, T], their sums [B], those of other figures, and rewards [B, A]."""
    needs = ("entropy",) if reference is None else ("entropy", "kl")
    tokens = logprobs.tokens(
        model, params, rows, needs=needs, reference=reference, reference_model=other
    )
    # Where, not times: the figures of padding may not be finite.
    total = lambda x_BT: jnp.where(rows.weights > 0, x_BT, 0.0).sum(-1)
    logp_B = logprobs.response_logprobs(groups_of(rows), tokens).total[:, 0]
    sums = {"entropy": total(tokens.entropy)}
    if reference is not None:
        sums |= {"ref_logp": total(tokens.reference_logp), "kl": total(tokens.kl)}
    scores_BA = None if reward is None else rewards(model, params, rows, reward)
    return tokens.logp, logp_B, sums, scores_BA


def rewards(
    model: types.Model, params: types.Params, rows: types.Sequences, reward: Reward
) -> jax.Array:
    """float32 [B, A]: the attributes that a reward model gives each row's response."""
    batch = groups_of(rows)
    score_GKH = reward_model.score(model, params, batch, pooling=reward.pooling)
    score_GKMA = score_GKH.reshape(*score_GKH.shape[:2], reward.members, -1)
    return reward_model.reduced(score_GKMA, reward.reduce, reward.penalty)[:, 0]


def groups_of(rows: types.Sequences) -> types.Responses:
    """Rows [B, T] of one response each as groups of one."""
    row = jax.tree.map(lambda x: x[:, None], rows)
    responses = (row.weights > 0).astype(jnp.int32)
    groups = len(responses), 1
    return types.Responses(
        row,
        responses,
        lengths=responses.sum((1, 2))[:, None, None],
        weights=jnp.ones(groups),
        index=jnp.arange(len(responses))[:, None],
        values={},
    )
