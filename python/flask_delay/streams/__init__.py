"""Streams of tasks over HTTP: server-sent events, a long poll, and the script for a page."""
