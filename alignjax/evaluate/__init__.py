# SPDX-License-Identifier: Apache-2.0
"""Any runs measured on a user's own texts, pairs and prompts.

datasets    the files: what their columns ask for
grading     an answer beside what its prompt asks for
measuring   a run on one of them, as rows
store       rows in a folder; a killed evaluation goes on
running     of each run and dataset what is not measured yet
figures     all figures, from rows
leaks       items that are in training data
results     the folder of an evaluation, read
__main__    the command `alignjax evaluate`
"""
