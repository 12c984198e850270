# SPDX-License-Identifier: Apache-2.0
"""Where configs begin, and blocks that they share.

A config file changes what it needs. Every other field has the default of the code that
reads it; `alignjax train --config=FILE --print` lists all of them, with their meaning.
A field that does not apply, such as an option of another optimizer, is refused.
"""

from ml_collections import ConfigDict


def language_model() -> ConfigDict:
    """Next-token prediction: pretraining."""
    c = ConfigDict()
    for section in ("init", "reference", "evaluation", "sample", "log"):
        c[section] = ConfigDict()
    c.sharding_rules = ConfigDict()
    c.model = ConfigDict(dict(family="llama", name="nano"))
    c.objective = ConfigDict(dict(name="language_model"))
    c.tokenizer = ConfigDict(dict(kind="sentencepiece"))  # trained on the corpus
    c.data = ConfigDict(dict(sources={}, validation_sources={}, bos=True))
    c.optimizer = ConfigDict(dict(name="adamw", clip_norm=1.0))
    c.optimizer.decay = r".*(kernel|embed|head|lora_[ab])"  # no biases, no norms
    c.schedule = ConfigDict(dict(name="cosine"))
    c.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))
    c.checkpoint = ConfigDict(dict(every=500))
    return c


def sft() -> ConfigDict:
    """Fine-tuning on dialogues: the loss is on the replies of the assistant."""
    c = _from_another_run(language_model())
    c.schedule.final = 0.1
    return c


def reward_model() -> ConfigDict:
    """A model that scores responses, from comparisons."""
    c = _from_another_run(language_model())
    c.model.score_heads = 1  # members x attributes
    c.objective.name = "reward_model"
    c.objective.loss = "bradley_terry"
    return c


def preference() -> ConfigDict:
    """Preference optimisation; `alignjax losses` lists the losses and their options."""
    c = _from_another_run(language_model())
    c.objective.name = "preference"
    c.objective.loss = "dpo"
    return c


def policy_gradient() -> ConfigDict:
    """Rollouts, RLOO and `ppo_clip`; `rollouts.rewards` is to be set.

    In a fresh run the policy starts as the reference, `init.run`.
    """
    c = _from_another_run(language_model())
    c.objective.name = "policy_gradient"
    c.rollouts = ConfigDict(
        dict(rewards={}, advantage={}, normalize={}, denominator={}, kl={})
    )
    c.schedule.name = "constant"
    return c


def continued() -> ConfigDict:
    """Pretraining that goes on, on other text, from the run in `init.run`."""
    c = _from_another_run(language_model())
    c.data.train_on = "everything"
    c.data.long_documents = "split"
    return c


def _from_another_run(c: ConfigDict) -> ConfigDict:
    """Model, tokenizer and template are those of `init.run`, which is all to be set."""
    c.model = ConfigDict()
    c.tokenizer = ConfigDict()
    c.data.chat, c.data.bos = "inherit", None
    c.data.long_documents = "error"  # or "skip", "truncate_prompt"; all are counted
    return c


def lora(c: ConfigDict, rank: int, alpha: float) -> None:
    """Trains low-rank adapters of all projections, and nothing else."""
    c.model.lora_rank, c.model.lora_alpha = rank, alpha
    c.trainable = r".*/lora_.*"


def tulu3(c: ConfigDict) -> None:
    """The mixture of Tulu 3, 939,343 dialogues from the Hub, with the extra `hf`."""
    c.data.sources.tulu3 = dict(
        kind="huggingface",
        path="allenai/tulu-3-sft-mixture",
        split="train",
        format="messages",
        weight=1.0,
    )
    c.data.on_bad_row = "skip"  # some dialogues end in the user's turn
    c.data.long_documents = "skip"
    c.data.validation_fraction = 0.002


def hh_pairs(c: ConfigDict) -> None:
    """Anthropic's HH, a file with a pair a line."""
    c.data.sources.hh = dict(kind="jsonl", path="", format="hh", weight=1.0)
    c.data.on_bad_row = "skip"
    c.data.long_documents = "truncate_prompt"
    c.data.share_prompt = True
    c.data.validation_fraction = 0.25  # the dialogues that pretraining held out


def ultrafeedback(c: ConfigDict) -> None:
    """UltraFeedback, binarized: 61,135 pairs to train on and 2,000 to evaluate.

    They are from the Hub, with the extra `hf`. Pairs of equal scores are skipped.
    """
    pairs = dict(
        kind="huggingface",
        path="HuggingFaceH4/ultrafeedback_binarized",
        format="preference",
        weight=1.0,
    )
    c.data.sources.ultrafeedback = dict(pairs, split="train_prefs")
    c.data.validation_sources.ultrafeedback = dict(pairs, split="test_prefs")
    c.data.validation_fraction = 0.0
    c.data.on_bad_row = "skip"
    c.data.long_documents = "truncate_prompt"
    c.data.share_prompt = True
