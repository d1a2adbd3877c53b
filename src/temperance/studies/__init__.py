"""Studies: plan, execute, compare."""
