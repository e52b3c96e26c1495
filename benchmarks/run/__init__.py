"""Run benchmarks: runner, run folders, processes, clusters, judges, answers made elsewhere."""
