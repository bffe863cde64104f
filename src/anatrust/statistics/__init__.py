"""Two-sample tests, their nulls, multiple testing and conformal p-values."""
