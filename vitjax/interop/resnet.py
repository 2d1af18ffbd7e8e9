"""Not written yet."""

LAYOUTS = {}
