"""Configuration: YAML, drop-ins and environment to one checked value."""
