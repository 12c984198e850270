# SPDX-License-Identifier: Apache-2.0
"""A run as lm-eval asks models: likelihoods, rolling likelihoods, texts until a stop.

`lm_eval.simple_evaluate(model=Harness(run))`, once `lm_eval.api.model.LM` has been told
of the class (`evals.lm_eval` does); neither torch nor transformers is needed. Requests
are lm-eval's instances, of which `args` alone is read. The tokens are those of its `hf`
backend, but for these:

* A text begins with one start token at most. Where a tokenizer writes one by itself,
  `hf` scores rolling texts with two.
* What a text spells is text. Only where a chat template wrote it are special tokens
  meant.
* A continuation whose first token is partly of its context is scored from where the two
  begin to differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from alignjax import analysis, errors, sampling
from alignjax.analysis import scoring
from alignjax.data import records
from alignjax.data.chat import format as formats
from alignjax.data.chat import templates
from alignjax.evals import continuations

MAX_TOKENS = 256  # of a text, where the task does not say
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
FILTERS = ("top_k", "top_p", "min_p")


class Harness:
    """The model that lm-eval asks.

    Attributes:
      notes: how many requests were cut on the left, since they are longer than the
        context, and how many had a token across context and continuation.
    """

    rank, world_size, device = 0, 1, None

    def __init__(
        self,
        run: analysis.Run,
        params: Any = None,
        *,
        batch_size: int | None = None,
        progress: Callable[[str], None] = lambda line: None,
    ):
        """Args are an open run, its parameters if not the newest, and rows at a time.

        `progress` is called with a line such as "likelihoods: 64 of 200".
        """
        self._run, self._params = run, run.weights() if params is None else params
        self._tok, self._batch_size = run.tokenizer, batch_size or continuations.ROWS
        self._progress = progress
        self._form: formats.ChatFormat | None = None  # once a template has been applied
        self.notes = {"cut_on_the_left": 0, "token_across": 0}

    @property
    def max_length(self) -> int:
        """Tokens of the context."""
        return self._run.model.config.max_length

    @property
    def prefix_token_id(self) -> int:
        """What comes before a text that has no context."""
        tok = self._run.full_tokenizer
        prefix = tok.eos_id if tok.bos_id is None else tok.bos_id
        if prefix is None:
            raise errors.ConfigError(
                f"{self._run.path}: its tokenizer has no token that begins or ends a "
                "text, so a text without a context cannot be scored"
            )
        return prefix

    @property
    def tokenizer_name(self) -> str:
        """Of the tokenizer and the chat format; differs where either does."""
        return f"alignjax-{templates.encoding(self._tok)[:16]}-{self._run.chats}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template, for lm-eval's results; None where none is applied."""
        if not chat_template:
            return None
        if not self._run.chats:
            raise errors.ConfigError(
                f"chat: {self._run.path} did not learn dialogues (data.chat); leave "
                "--chat out"
            )
        self._form = formats.of(self._tok, self._run.chats)
        return self._form.source

    def apply_chat_template(
        self,
        chat_history: Sequence[Mapping[str, str]],
        add_generation_prompt: bool = True,
    ) -> str:
        """Messages as the template writes them.

        Args:
          add_generation_prompt: whether the assistant is to begin a turn; else the last
            message is its own, and it goes on with it.

        Raises:
          ConfigError: the run did not learn dialogues.
          DataError: the template cannot write them, or one spells a special token.
        """
        self.chat_template(True)
        turns = tuple((m["role"], m["content"]) for m in chat_history)
        chat = records.Chat(turns)
        reason = formats.fault(chat, self._form.literal, prompt=add_generation_prompt)
        if reason and all(text for _, text in turns):
            # Rolling texts come with an empty question, which nobody reads.
            raise errors.DataError(reason)
        self._form.check(chat)
        ((text, _),) = self._form.render([(chat, add_generation_prompt)])
        if add_generation_prompt:
            return text
        last = turns[-1][1].strip()
        if (at := text.rfind(last)) < 0:
            raise errors.DataError(
                f"the template does not write {last!r:.60}, with which the answer is "
                "to begin, as it is; leave --chat out"
            )
        return text[: at + len(last)]

    def _encode(self, texts: Sequence[str], start: bool = True) -> list[list[int]]:
        """The tokens of texts, each after one start token where the run has them."""
        if self._form is None:
            encoded = [list(map(int, ids)) for ids in self._tok.encode_batch(texts)]
        else:
            encoded = [placed.ids.tolist() for placed in self._form.encode(texts)]
        bos = self._tok.bos_id
        if not start or bos is None:
            return encoded
        return [ids if ids[:1] == [bos] else [bos, *ids] for ids in encoded]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(log p(continuation | context), whether it is greedy) of each request."""
        pairs = [_without_trailing_space(*request.args) for request in requests]
        texts = [text for context, more in pairs for text in (context + more, context)]
        encoded = iter(self._encode(list(dict.fromkeys(texts))))
        ids_of = dict(zip(dict.fromkeys(texts), encoded, strict=True))
        rows = []
        for context, more in pairs:
            whole, before = ids_of[context + more], ids_of[context]
            if not context:
                whole = self._encode([more], start=False)[0]
                before = [self.prefix_token_id]
                whole = whole if whole[:1] == before else [*before, *whole]
            rows.append(self._row(whole, before))
        measured = self._measure(rows, "likelihoods")
        return [(one.logp, one.greedy) for one in measured]

    def _row(self, whole: list[int], before: list[int]) -> scoring.Row:
        """A continuation after its context, which is cut to what the model takes."""
        start = len(before)
        if whole[:start] != before or start == len(whole):
            same = (a == b for a, b in zip(whole, before, strict=False))
            start = next((i for i, equal in enumerate(same) if not equal), start)
            start = min(start, len(whole) - 1)
            self.notes["token_across"] += 1
        if start < 1:
            whole, start = [self.prefix_token_id, *whole], 1
        room = self.max_length + 1
        if len(whole) - start > self.max_length:
            raise errors.DataError(
                f"a continuation of {len(whole) - start} tokens, where the model takes "
                f"{self.max_length}; leave that task out"
            )
        if len(whole) > room:
            self.notes["cut_on_the_left"] += 1
            start -= len(whole) - room
            whole = whole[-room:]
        return scoring.Row(whole[:start], whole[start:])

    def _measure(self, rows: list[scoring.Row], noun: str):
        return continuations.measure(
            self._run.model,
            self._params,
            rows,
            batch_size=self._batch_size,
            progress=lambda n: self._progress(f"{noun}: {n:,} of {len(rows):,}"),
        )

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """log p(text) of each request, in windows where it is longer than the context.

        Every token is scored once, and each text by itself, after one prefix token.
        """
        texts, prefix = [request.args[0] for request in requests], self.prefix_token_id
        rows, owners = [], []
        for owner, ids in enumerate(self._encode(texts)):
            ids = ids[1:] if ids[:1] == [prefix] else ids
            windows = list(_windows(ids, prefix, self.max_length))
            rows += windows
            owners += [owner] * len(windows)
        sums = [[] for _ in texts]
        for owner, one in zip(owners, self._measure(rows, "windows"), strict=True):
            sums[owner].append(one.logp)
        return [math.fsum(logps) for logps in sums]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """The text that goes on from each context, up to a stop string."""
        contexts = self._encode([request.args[0] for request in requests])
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            key = json.dumps(request.args[1], sort_keys=True)
            groups.setdefault(key, []).append(i)
        texts: list[str] = [""] * len(requests)
        done = 0
        for places in groups.values():
            stop, options = settings(requests[places[0]].args[1])
            room = self.max_length - options["max_tokens"]
            if room < 1:
                raise errors.ConfigError(
                    f"max_gen_toks: {options['max_tokens']}, where the model's context "
                    f"is {self.max_length}; give fewer in generation_kwargs of the task"
                )
            cut = sum(len(contexts[i]) > room for i in places)
            self.notes["cut_on_the_left"] += cut
            places.sort(key=lambda i: (len(contexts[i]), i))
            for first in range(0, len(places), self._batch_size):
                batch = places[first : first + self._batch_size]
                prompts = [contexts[i][-room:] for i in batch]
                for i, text in zip(
                    batch, self._texts(prompts, batch, stop, options), strict=True
                ):
                    texts[i] = text
                done += len(batch)
                self._progress(f"texts: {done:,} of {len(requests):,}")
        return texts

    def _texts(self, prompts, seeds, stop, options) -> Iterator[str]:
        stop_ids = None if self._form is None else self._form.stop_ids
        for completion in sampling.generate(
            self._run.model,
            self._params,
            self._tok,
            prompts,
            stop=stop,
            stop_ids=stop_ids,
            seeds=seeds,
            batch_size=self._batch_size,
            **options,
        ):
            ids = completion.ids
            if completion.finish_reason == "stop_token":
                ids = ids[:-1]
            text = self._tok.decode(ids)
            for term in stop:
                text = text.split(term)[0]
            yield text


def _without_trailing_space(context: str, continuation: str) -> tuple[str, str]:
    """Spaces at the end of a context go to its continuation, as words begin with one.

    Raises DataError for an empty continuation.
    """
    if not continuation:
        raise errors.DataError(
            f"a request without a continuation, after {context[-40:]!r}; mend the task"
        )
    trimmed = context.rstrip()
    return trimmed, context[len(trimmed) :] + continuation


def _windows(ids: Sequence[int], prefix: int, size: int) -> Iterator[scoring.Row]:
    """Rows that score every token once, each after as many before it as there is room.

    The first window is `size` tokens after the prefix; the last one is as long as the
    others, and scores what is left.
    """
    whole = [prefix, *ids]
    for start in range(1, len(whole), size):
        stop = min(start + size, len(whole))
        first = max(0, stop - size - 1)
        yield scoring.Row(whole[first:start], whole[start:stop])


def settings(options: Mapping[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """Stop strings and options of `sampling.generate` from a task's generation_kwargs.

    As lm-eval has them: without `do_sample` a temperature above 0 samples, and with
    `do_sample: false` it is greedy whatever the temperature.

    Raises:
      ConfigError: an option that means something else than is done here.
    """
    left = dict(options)
    until = left.pop("until", None) or []
    stop = [text for text in ([until] if isinstance(until, str) else until) if text]
    limits = [left.pop(name, None) for name in LIMITS]
    limit = next((x for x in limits if x is not None), MAX_TOKENS)
    sampled, temperature = left.pop("do_sample", None), left.pop("temperature", None)
    if sampled is None:
        sampled = bool(temperature)
    elif sampled and temperature is None:
        temperature = 1.0
    filters = {k: left.pop(k) for k in FILTERS if left.get(k) is not None}
    beams = left.pop("num_beams", 1)
    if left or beams != 1:
        raise errors.ConfigError(
            f"generation_kwargs: {', '.join(left) or 'num_beams'}: not known here; "
            f"known: until, do_sample, temperature, {', '.join((*FILTERS, *LIMITS))}"
        )
    if not sampled:
        temperature, filters = 0.0, {}
    return stop, {"max_tokens": int(limit), "temperature": temperature, **filters}
