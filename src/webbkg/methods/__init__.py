"""One file for each method: its parameters and one function."""
