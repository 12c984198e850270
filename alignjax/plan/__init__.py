# SPDX-License-Identifier: Apache-2.0
"""Plans of training: the step of a config, compiled for hardware that is not there.

`cards` has what is known of devices, `topology` gives devices to compile for, `step`
compiles, `program` reads the compiled text, `floors` and `memory` weigh it.
"""
