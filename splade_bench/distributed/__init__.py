"""Several processes that train one model: how they are started, what they send each other, and who failed."""
