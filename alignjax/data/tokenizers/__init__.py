# SPDX-License-Identifier: Apache-2.0
"""The kinds of tokenizers, one file each; see `alignjax.data.tokenizers.base`."""
