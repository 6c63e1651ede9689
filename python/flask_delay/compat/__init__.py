"""The interfaces of other libraries, for code that was written for them: change one import."""
