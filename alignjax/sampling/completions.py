# SPDX-License-Identifier: Apache-2.0
"""Text in, text out: batches of padded rows, and stop strings found by the host.

Shapes come in few sizes, so that few programs are compiled: the prompts of a batch are
padded to 16, 32, 64, ... 512 tokens and then to multiples of 512, the room for
responses likewise, and the rows to a power of two (on a mesh, a multiple of its
devices). A program is kept for as long as its model; temperature, top-p, min-p, seeds
and stops are arguments of it, the k of top-k and which filters are on are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from alignjax.sampling import batches, loop, request, text
from alignjax.types import Model, Params

# Tokens between two looks of the host for stop strings, where there are any.
CHUNK = 16


class Completion(NamedTuple):
    """What was generated for a prompt.

    Attributes:
      prompt_ids: the prompt's tokens, with the start of document where there is one.
      ids: the response's tokens; where it was stopped, through the stop token or the
        token that completed the stop string.
      text: of the response, without what stopped it. U+FFFD stands for bytes that are
        not UTF-8, such as a character that `max_tokens` cut in two.
      finish_reason: what ended it.
      stop: the stop token's id or the stop string, or None.
      logprobs: float32, of each of `ids` under the distribution that it was drawn from
        (see `sampling.distribution`), so 0 throughout where that is greedy.
      model_logprobs: float32, of each of `ids` under the model's own distribution: no
        temperature, no filter, no token taken out. What teacher forcing gives.
    """

    prompt_ids: list[int]
    ids: list[int]
    text: str
    finish_reason: Literal["stop_token", "stop_string", "length"]
    stop: int | str | None
    logprobs: np.ndarray
    model_logprobs: np.ndarray


def generate(
    model: Model,
    params: Params,
    tokenizer: Any,
    prompts: Sequence[str] | Sequence[Sequence[int]],
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    stop: Sequence[str] = (),
    stop_ids: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    batch_size: int | None = None,
) -> list[Completion]:
    """Continues every prompt; one completion for each, in their order.

    A row's tokens depend on the model, its prompt, its seed and the settings, not on
    the other rows, their order or the size of batches.

    Args:
      params: under `sharding.use` they may lie anywhere on the mesh.
      tokenizer: see `data.tokenizers.base.Tokenizer`.
      prompts: texts, which get the tokenizer's start of document before them, or
        tokens, which are taken as they are.
      max_tokens: tokens of a response at most, the stop token included.
      temperature, top_k, top_p, min_p: see `sampling.distribution`; temperature 0 is
        greedy.
      stop: strings that end a response wherever they appear in it, also across tokens.
        What the prompt holds does not count.
      stop_ids: tokens that end a response; the default is the end of document. Other
        control tokens are never drawn, nor are rows of the embedding without a token.
      seeds: one for each prompt, in [0, 2^32); the default is 0, 1, 2, ...
      batch_size: rows at one time, the default is 32; longer prompts go later.

    Raises:
      ConfigError: values that do not fit, all of them at once.
    """
    query = request.make(
        model,
        tokenizer,
        prompts,
        max_tokens=max_tokens,
        stop=stop,
        stop_ids=stop_ids,
        seeds=seeds,
        batch_size=32 if batch_size is None else batch_size,
        **dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p),
    )
    params = batches.whole(model, jax.tree.map(jnp.asarray, params))
    order = sorted(range(len(query.prompts)), key=lambda i: len(query.prompts[i]))
    done: dict[int, Completion] = {}
    for first in range(0, len(order), query.batch_size):
        rows = order[first : first + query.batch_size]
        batch = query._replace(
            prompts=[query.prompts[i] for i in rows],
            seeds=[query.seeds[i] for i in rows],
        )
        chunk = CHUNK if stop else batches.CHUNK
        *_, last = _run(model, params, tokenizer, batch, chunk)
        done |= {i: _completion(tokenizer, batch, *last, n) for n, i in enumerate(rows)}
    return [done[i] for i in range(len(order))]


def stream(
    model: Model,
    params: Params,
    tokenizer: Any,
    prompt: str | Sequence[int],
    *,
    max_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    stop: Sequence[str] = (),
    stop_ids: Sequence[int] | None = None,
    seed: int = 0,
    chunk: int = 4,
) -> Iterator[str]:
    """Continues one prompt, in pieces of text that join to the text of `generate`.

    A piece is held back while it may yet turn out to begin a stop string or to be part
    of a character. Arguments are those of `generate`; `chunk` is how many tokens are
    drawn from one piece to the next.

    Raises:
      ConfigError: values that do not fit; at once, not at the first piece.
    """
    query = request.make(
        model,
        tokenizer,
        [prompt],
        max_tokens=max_tokens,
        stop=stop,
        stop_ids=stop_ids,
        seeds=[seed],
        batch_size=1,
        **dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p),
    )
    params = batches.whole(model, jax.tree.map(jnp.asarray, params))

    def pieces():
        shown = ""
        for responses, matches in _run(model, params, tokenizer, query, chunk):
            row = _completion(tokenizer, query, responses, matches, 0)
            now = row.text
            if row.finish_reason == "length" and len(row.ids) < max_tokens:
                now = text.settled(now, query.stop)
            if len(now) > len(shown):
                yield now[len(shown) :]
                shown = now

    return pieces()


def _run(model, params, tokenizer, query: request.Request, chunk: int):
    """Yields (responses, stop matches) every `chunk` steps and at the end."""
    count, V = len(query.prompts), model.config.vocab_size
    prompts_BP, seeds_B = _pad(query)
    draw = loop.Draw(
        keys_B=_keys(seeds_B),
        allowed_V=_allowed(tokenizer, query.stop_ids, V),
        stops_V=np.isin(np.arange(V), query.stop_ids),
        settings=query.settings,
    )
    matches: list[text.StopMatch | None] = [None] * count
    seen, ended_B = 0, np.zeros(len(seeds_B), bool)
    for responses in batches.chunks(
        model,
        params,
        *(np.maximum(prompts_BP, 0), prompts_BP >= 0, draw, query.max_tokens),
        room=bucket(query.max_tokens),
        chunk=chunk,
        ended_N=ended_B,
    ):
        if query.stop:
            for i in range(count):
                matches[i] = matches[i] or _find(tokenizer, query, responses, i, seen)
                ended_B[i] = matches[i] is not None
            seen += chunk
        yield responses, matches


_keys = jax.jit(jax.vmap(jax.random.key))


def _find(tokenizer, query, responses, i: int, seen: int) -> text.StopMatch | None:
    ids, prompt = _written(query, responses, i), query.prompts[i]
    text_of = lambda count: text.of_response(tokenizer.decode, prompt, ids[:count])
    return text.find_stop(text_of, min(seen, len(ids)), len(ids), query.stop)


def _written(query, responses, i: int) -> list[int]:
    """The response's tokens, without the stop token, which is no part of the text."""
    ids = responses.tokens_BR[i, : responses.length_B[i]].tolist()
    return ids[:-1] if ids[-1] in query.stop_ids else ids


def _completion(tokenizer, query, responses, matches, i: int) -> Completion:
    prompt, ids = query.prompts[i], _written(query, responses, i)
    count, reason, stop = int(responses.length_B[i]), "length", None
    if matches[i] is not None:
        reason, (stop, written, count) = "stop_string", matches[i]
    else:
        written = text.of_response(tokenizer.decode, prompt, ids)
        if len(ids) < count:
            reason, stop = "stop_token", int(responses.tokens_BR[i, count - 1])
    return Completion(
        prompt_ids=prompt,
        ids=responses.tokens_BR[i, :count].tolist(),
        text=written,
        finish_reason=reason,
        stop=stop,
        logprobs=responses.logps_BR[i, :count].copy(),
        model_logprobs=responses.model_logps_BR[i, :count].copy(),
    )


def _pad(query: request.Request) -> tuple[np.ndarray, np.ndarray]:
    """Prompts int32 [B, P], padded on the left with -1, and seeds uint32 [B]."""
    count = len(query.prompts)
    devices = max(1, jax.sharding.get_abstract_mesh().size)
    rows = -(-(1 << (count - 1).bit_length()) // devices) * devices
    # The last token of a prompt does not go into the cache with the others.
    length = 1 + bucket(max(map(len, query.prompts)) - 1)
    prompts_BP = np.full((rows, length), -1, np.int32)
    for row, prompt in zip(prompts_BP, query.prompts, strict=False):
        row[length - len(prompt) :] = prompt
    return prompts_BP, np.array(query.seeds + [0] * (rows - count), np.uint32)


def bucket(length: int) -> int:
    """The padded size of prompts of this length, and of the room for responses."""
    if length > loop.PREFILL:
        return -(-length // loop.PREFILL) * loop.PREFILL
    return max(16, 1 << max(length - 1, 0).bit_length())


def _allowed(tokenizer, stop_ids, vocab_size: int) -> np.ndarray:
    """bool [V]: the tokens that stand for text, and those that stop."""
    allowed_V = np.zeros(vocab_size, bool)
    allowed_V[: tokenizer.vocab_size] = np.asarray(tokenizer.token_bytes) > 0
    allowed_V[stop_ids] = True
    return allowed_V
