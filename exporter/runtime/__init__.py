"""Call what was loaded."""
