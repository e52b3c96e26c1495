"""Answer rules: how published scripts read answers, and what is counted from them."""
