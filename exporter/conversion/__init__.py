"""A stored signature as a file for other compilers and runtimes, without the code of the model."""
