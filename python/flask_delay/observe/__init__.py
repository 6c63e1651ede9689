"""Ways to observe tasks: figures, signals, the status page."""
