# SPDX-License-Identifier: Apache-2.0
"""From files to rows of tokens: sources, tokenizers, cache, packing, loader.

Nothing in this package imports jax, so its worker processes start in a moment.
"""
