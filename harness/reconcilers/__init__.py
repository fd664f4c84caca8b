"""One file per part of the machine: observe, diff (pure), apply."""
