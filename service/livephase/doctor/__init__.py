"""``livephase doctor``: everything that a run needs is looked at; what can crash or hang is done by a child."""
