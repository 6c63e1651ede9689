"""Flask-Delay and its peers side by side: `make bench`. README.md says how it works."""
