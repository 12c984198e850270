# SPDX-License-Identifier: Apache-2.0
"""Loss, gradients and metrics of TRL's own trainers on the batch of the task.

Each trainer is made as its documentation says, of a model, a tokenizer and a dataset of
texts; it tokenises and collates them itself, and its own `compute_loss` runs.
"""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
from collections.abc import Mapping

import datasets
import numpy as np
import torch
import transformers
import trl
from trl.experimental import cpo, orpo

from tools.crosscheck import cases, task, texts
from tools.crosscheck.alignjax_side import Result, less

torch.set_num_threads(1)  # there is less to do than to wait for

TRAINERS = {
    "dpo": (trl.DPOTrainer, trl.DPOConfig),
    "kto": (trl.KTOTrainer, trl.KTOConfig),
    "orpo": (orpo.ORPOTrainer, orpo.ORPOConfig),
    "cpo": (cpo.CPOTrainer, cpo.CPOConfig),
    "reward": (trl.RewardTrainer, trl.RewardConfig),
    "sft": (trl.SFTTrainer, trl.SFTConfig),
    "grpo": (trl.GRPOTrainer, trl.GRPOConfig),
    "rloo": (trl.RLOOTrainer, trl.RLOOConfig),
}


def versions() -> dict[str, str]:
    """Versions of the packages that this side runs."""
    packages = (trl, transformers, torch)
    return {package.__name__: package.__version__ for package in packages}


def text(ids) -> str:
    """The text that TRL tokenises to these ids."""
    return texts.text(ids, task.END)


def model(parameters: Mapping[str, np.ndarray], scores: bool = False):
    """transformers' Llama with these parameters, float32, attention as written."""
    classifier = transformers.LlamaForSequenceClassification
    kind = classifier if scores else transformers.LlamaForCausalLM
    sizes = task.SIZES
    shape = transformers.LlamaConfig(
        vocab_size=task.VOCAB,
        hidden_size=sizes["d_model"],
        intermediate_size=sizes["d_ff"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        num_key_value_heads=sizes["kv_heads"],
        max_position_embeddings=sizes["max_length"],
        rms_norm_eps=task.EPSILON,
        rope_theta=task.THETA,
        tie_word_embeddings=False,
        pad_token_id=task.PAD,
        eos_token_id=task.END,
        bos_token_id=None,
        num_labels=1,
        attn_implementation="eager",
    )
    llama = kind(shape)
    state = {name: torch.from_numpy(np.array(x)) for name, x in parameters.items()}
    state = {name: x for name, x in state.items() if name in llama.state_dict()}
    llama.load_state_dict(state, strict=True)
    return llama


class Side:
    """TRL, with the parameters that alignjax has made, by transformers' names."""

    def __init__(self, pairs: list[task.Pair], policy, reference, rewards, groups, old):
        self.pairs, self.groups = pairs, groups
        self.policy, self.reference, self.rewards = policy, reference, rewards
        self.old = old

    def run(self, case: cases.Case) -> Result:
        """One case, less that of `case.less`."""
        result = self._run(case, case.trl)
        if case.less is None:
            return result
        return less(result, self._run(case, {**case.trl, **case.less[0]}))

    def _run(self, case: cases.Case, fields) -> Result:
        with tempfile.TemporaryDirectory() as folder, _quiet():
            if case.rollout:
                trainer = self._online(case.trainer, dict(fields), folder)
                batch = self._drawn(trainer)
            else:
                trainer = self._trainer(case.trainer, dict(fields), folder)
                rows = [trainer.train_dataset[i] for i in range(len(self.pairs))]
                batch = trainer.data_collator(rows)
                batch = {k: v for k, v in batch.items() if isinstance(v, torch.Tensor)}
                trainer.model.train()
            loss = trainer.compute_loss(trainer.model, batch)
            loss.backward()
        metrics = getattr(trainer, "_metrics", None) or trainer._stored_metrics
        metrics = {name: values[-1] for name, values in metrics["train"].items()}
        gradients = {
            name: np.zeros(x.shape, np.float32) if x.grad is None else x.grad.numpy()
            for name, x in trainer.model.named_parameters()
        }
        return Result(float(loss.detach()), gradients, metrics)

    def _trainer(self, name: str, fields: dict, folder: str):
        kind, options = TRAINERS[name]
        own = {name: fields.pop(name, False) for name in ("margin", "terminator")}
        config = options(
            output_dir=folder,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            max_length=task.SIZES["max_length"],
            per_device_train_batch_size=len(self.pairs),
            disable_tqdm=True,
            **fields,
        )
        others = {}
        if name in ("dpo", "kto"):
            others["ref_model"] = model(self.reference)
        return kind(
            model=model(self.rewards, True) if name == "reward" else model(self.policy),
            args=config,
            train_dataset=self._dataset(name, **own),
            processing_class=texts.tokenizer(task.VOCAB, task.END, task.PAD),
            **others,
        )

    def _online(self, name: str, fields: dict, folder: str):
        """A trainer of drawn responses, its model the one that draws."""
        kind, options = TRAINERS[name]
        K = len(self.groups[0].responses)
        rows = len(self.groups) * K
        beta = fields.pop("beta", 0.0)  # with one it would look for a model by its name
        config = options(
            output_dir=folder,
            report_to="none",
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=rows,
            num_generations=K,
            max_completion_length=task.LONGEST,
            # Of more than one, it has log-probabilities of the model that drew.
            num_iterations=2,
            beta=0.0,
            disable_tqdm=True,
            **fields,
        )
        prompts = [{"prompt": text(group.prompt)} for group in self.groups]
        rewards = [reward for group in self.groups for reward in group.rewards]
        trainer = kind(
            model=model(self.old),
            reward_funcs=lambda completions, **_: rewards,
            args=config,
            train_dataset=datasets.Dataset.from_list(prompts),
            processing_class=texts.tokenizer(task.VOCAB, task.END, task.PAD),
        )
        # A copy of its model has what the trainer has changed about it.
        trainer.beta, trainer.ref_model = beta, copy.deepcopy(trainer.model)
        trainer.ref_model.load_state_dict(model(self.reference).state_dict())
        return trainer

    def _drawn(self, trainer) -> dict:
        """The trainer's own scoring of the responses, which it does not draw itself."""
        drawn = [(g.prompt, y) for g in self.groups for y in g.responses]
        prompts, responses = (list(map(list, ids)) for ids in zip(*drawn, strict=True))
        words = [text(ids) for ids in responses]
        if isinstance(trainer, trl.GRPOTrainer):
            generated = prompts, responses, None, words, None, {}, None, None
        else:
            generated = prompts, responses, words
        trainer._generate = lambda _: generated
        trainer.model.train()
        batch = trainer._generate_and_score_completions(
            [{"prompt": text(ids)} for ids in prompts]
        )
        trainer.model.load_state_dict(model(self.policy).state_dict())
        trainer.current_gradient_accumulation_steps = 1
        return batch

    def _dataset(self, name: str, margin: bool, terminator: bool) -> datasets.Dataset:
        texts_of = lambda **ids: {key: text(part) for key, part in ids.items()}
        if name == "kto":
            rows = [
                texts_of(prompt=row.prompt, completion=row.response)
                | {"label": row.desirable}
                for row in task.labelled(self.pairs)
            ]
        elif name == "sft":
            rows = [texts_of(prompt=p.prompt, completion=p.chosen) for p in self.pairs]
        elif name == "reward":
            # Our rows have tokens that something follows, so the one that ends a
            # response is not among what the model reads.
            end = None if terminator else -1
            rows = [
                {
                    "chosen_ids": [*p.prompt, *p.chosen][:end],
                    "rejected_ids": [*p.prompt, *p.rejected][:end],
                    **({"margin": p.margin} if margin else {}),
                }
                for p in self.pairs
            ]
        else:
            rows = [
                texts_of(prompt=p.prompt, chosen=p.chosen, rejected=p.rejected)
                for p in self.pairs
            ]
        return datasets.Dataset.from_list(rows)


@contextlib.contextmanager
def _quiet():
    """What trainers print while they are made is no concern of the table."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
