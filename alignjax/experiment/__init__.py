# SPDX-License-Identifier: Apache-2.0
"""A config made into all that training needs, or refused."""
