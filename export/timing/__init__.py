"""How long it takes: the unit of work, the stopwatch and the runtimes."""
