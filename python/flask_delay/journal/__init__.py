"""Durable tasks: they are rows of a file that all processes of the machine share."""
