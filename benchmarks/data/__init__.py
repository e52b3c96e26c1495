"""Data of benchmarks: files read and written, pictures with known objects, names of objects."""
