"""The lab: what many networks say. Comparisons, sweeps, ensembles of seeds, measured Jacobians."""
