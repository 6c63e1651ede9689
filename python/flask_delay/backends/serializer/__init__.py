"""What goes from one process to another, as bytes or as JSON: a module for each form."""
