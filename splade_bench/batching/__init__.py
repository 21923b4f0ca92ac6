"""From texts to batches of token ids, and from batches to mini-batches."""
