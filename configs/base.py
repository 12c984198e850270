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
    c.model = ConfigDict()
    c.model.family = "llama"
    c.model.name = "nano"
    c.objective = ConfigDict()
    c.objective.name = "language_model"
    c.tokenizer = ConfigDict()
    c.tokenizer.kind = "sentencepiece"  # trained on the corpus
    c.data = ConfigDict()
    c.data.sources = ConfigDict()
    c.data.validation_sources = ConfigDict()
    c.data.bos = True
    c.optimizer = ConfigDict()
    c.optimizer.name = "adamw"
    c.optimizer.clip_norm = 1.0
    c.optimizer.decay = r".*(kernel|embed|head|lora_[ab])"  # no biases, no norms
    c.schedule = ConfigDict()
    c.schedule.name = "cosine"
    c.mesh = ConfigDict(dict(data=1, fsdp=-1, tensor=1))
    c.checkpoint = ConfigDict()
    c.checkpoint.every = 500
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


def _from_another_run(c: ConfigDict) -> ConfigDict:
    """Model and tokenizer are those of `init.run`, but for the fields that are set."""
    c.model = ConfigDict()
    c.tokenizer = ConfigDict()
    c.data.chat = "roles"
    c.data.long_documents = "error"  # or "skip", "truncate_prompt"; all are counted
    return c


def lora(c: ConfigDict, rank: int, alpha: float) -> None:
    """Trains low-rank adapters of all projections, and nothing else."""
    c.model.lora_rank, c.model.lora_alpha = rank, alpha
    c.trainable = r".*/lora_.*"


def ultrafeedback(c: ConfigDict) -> None:
    """UltraFeedback, binarized: 61,135 pairs to train on and 2,000 to evaluate.

    They are from the Hub, with the extra `hf`. Pairs of equal scores are skipped.
    """
    for sources, split in (
        (c.data.sources, "train_prefs"),
        (c.data.validation_sources, "test_prefs"),
    ):
        sources.ultrafeedback = dict(
            kind="huggingface",
            path="HuggingFaceH4/ultrafeedback_binarized",
            format="preference",
            weight=1.0,
            split=split,
        )
    c.data.validation_fraction = 0.0
    c.data.on_bad_row = "skip"
    c.data.long_documents = "truncate_prompt"
    c.data.share_prompt = True
