# SPDX-License-Identifier: Apache-2.0
"""GGUF files: opened tensor by tensor as a folder is, and written for llama.cpp.

A file has metadata, the sizes of a model, a tokenizer and a chat template among them,
and tensors that are mostly quantised. The package `gguf` knows the quantisations; what
a file says is checked here before any of it is believed.
"""
