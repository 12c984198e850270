# SPDX-License-Identifier: Apache-2.0
"""alignjax: align language models in JAX. Importing it touches no device."""

__version__ = "0.1.0"
