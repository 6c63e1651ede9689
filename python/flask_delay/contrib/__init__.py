"""Integrations with particular servers and libraries."""
