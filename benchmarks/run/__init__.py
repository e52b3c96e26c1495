"""Running benchmarks: the runner, run folders, worker processes, clusters, judges, and imported answers."""
