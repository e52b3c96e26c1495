"""Show a run to people: a table for the terminal, plain data for programs, a page for the browser."""
