# SPDX-License-Identifier: Apache-2.0
"""Records to tokens, once, in a cache on disk."""
