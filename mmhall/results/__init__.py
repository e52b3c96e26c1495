"""Store the answers of runs, import and export answers, and compute statistics with intervals."""
