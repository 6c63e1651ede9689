"""What there is to see of tasks: figures, signals, the status page."""
