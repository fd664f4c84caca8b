"""The only code that touches the outside; each file has one concern and hides one library."""
