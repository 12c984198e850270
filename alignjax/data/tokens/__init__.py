# SPDX-License-Identifier: Apache-2.0
"""Records made into tokens, once, and kept on disk."""
