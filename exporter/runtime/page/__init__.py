"""An artifact as one page to look at: `document.py` puts it together. It needs no JAX."""
