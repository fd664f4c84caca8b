"""Figures, measured side by side in one run; no figure here is ever asserted in a test."""
