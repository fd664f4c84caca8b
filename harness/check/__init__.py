"""`meshexp check`: each category gathers what it can see (I/O, in parallel), then judges it (pure). Changes nothing."""
