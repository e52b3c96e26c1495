"""Reports on runs: tables for the terminal, plain data for programs, a page for the browser."""
