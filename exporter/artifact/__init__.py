"""The folder: its format, its parts, its safety."""
