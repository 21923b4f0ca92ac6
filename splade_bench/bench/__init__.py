"""Outside a measured process: what is asked of it, how it is started, and how it ended. Imports no torch."""
