"""Independent float64 oracles: each training loss written out from its formula, as plain loops."""
