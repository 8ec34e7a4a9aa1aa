"""Arrays of a command: inputs from files and words, outputs to files. Nothing is ever executed."""
