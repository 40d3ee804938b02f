"""Numbers that are not finite: from the first of them on, steps change nothing."""

NEVER = -1
"""What stands in place of the first such step where there was none."""
