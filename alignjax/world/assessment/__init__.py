# SPDX-License-Identifier: Apache-2.0
"""Finished models measured on the embedded world, whose true reward is known.

python -m alignjax.world.assessment --run=sft=runs/sft --out=FILE.json

asked        the prompts, documents and pairs, the same for every model
formats      how a model reads them
subject      a run, opened for this
answers      what it says, and what that is truly worth
likelihood   what it thinks of given tokens
bootstrap    means with intervals
summary      answers to figures
policy       all figures of a model that talks
rewards      all figures of a model that scores
results      the file with everything
"""
