"""Floor 1: a simulated optical link: source, fibre, detectors, and who may stand between them.

The cost goes with the clicks, not with the pulses: what Alice chose for a pulse is a function of its number, and is
evaluated only where a photon arrives.
"""
