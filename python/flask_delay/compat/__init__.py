"""The interfaces of other libraries, for code that comes from them: one import to change."""
