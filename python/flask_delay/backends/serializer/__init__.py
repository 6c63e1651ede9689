"""The forms in which values pass from one process to another: a module for bytes, one for JSON."""
