"""The daemon: composition, the cycle, and the order down. The only place that names concrete adapters."""
