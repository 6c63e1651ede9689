"""What depends on the server that the app runs under, and on how a process ends."""
