"""What runs again and again, and which of several processes has it run."""
